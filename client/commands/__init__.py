"""What people type: the verbs of ``mammo-client``, and what they share."""

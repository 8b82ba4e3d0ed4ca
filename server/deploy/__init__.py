"""The coordinator's recipe: certificates, one public door, services of the machine."""

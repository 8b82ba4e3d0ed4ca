"""A hospital's side: everything that touches pixels or patients."""

import common.quiet  # noqa: F401  before flwr is imported anywhere

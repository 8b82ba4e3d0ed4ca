"""The coordinator's side: never a pixel, never a row of a patient."""

import common.quiet  # noqa: F401  before flwr is imported anywhere

"""Virtual hospitals on one machine: the same apps, another Grid."""

import common.quiet  # noqa: F401  before flwr is imported anywhere

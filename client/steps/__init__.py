"""One optimiser step, one file per way of taking it."""

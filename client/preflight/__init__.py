"""What stands in the way of a site's part in a federation, before it takes part.

`run.preflight` lists the findings; each file beside it looks at one thing.
"""

"""What both ends share: plan, models, sharing contract, records, statistics, report."""

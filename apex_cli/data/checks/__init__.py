"""`apex data check`: samples.py streams a set, seen.py looks at each, rules.py and alike.py judge, report.py tells."""

"""What went wrong, from logs. Pure: lines and signatures in, findings out.

signature.py says what a failure looks like (data: cluster/signatures/*.yaml), stamps.py reads lines out of
log files, match.py finds signatures in lines, diagnose.py puts the first cause first, report.py words it,
and redact.py keeps secrets out of what leaves the machine.
"""

"""The contract of a bus (cfn/bus/protocol.py), as one body of tests over every transport."""

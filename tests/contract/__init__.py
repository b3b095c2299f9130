"""What other programs and users rely on, frozen as data and compared with what is there now.

`frozen/*.json` is the contract, `observe.py` finds out what the installed package does, `locate.py` names the
few modules that a test cannot do without, `test_contract.py` compares. Additions are allowed; what is frozen
may not be missing or differ. `python tests/contract/freeze.py` adds what is new to the frozen files.
"""

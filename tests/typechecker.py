"""The run-time type check of the tests: beartype, with whole numbers accepted as floats (PEP 484's numeric tower)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

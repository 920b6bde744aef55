"""How the tests check types, in a module whose name no other `conftest.py` takes."""

from typing import Self

from beartype import BeartypeConf, FrozenDict, beartype

# As type checkers read them: an int is a float. And beartype refuses `typing.Self` on a single method, which jaxtyping
# hands it.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: object})))

"""Signs, per sample, that a search failed or that the model misled it; nothing here changes what the judge said."""

from vaerdict.attacks.judge.indicators.diagnose import diagnose
from vaerdict.attacks.judge.indicators.table import table_not_monotone
from vaerdict.attacks.judge.indicators.watched import Watched

__all__ = ["Watched", "diagnose", "table_not_monotone"]

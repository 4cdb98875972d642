"""What a check found: failures, and what it had to take as stated."""

from dataclasses import dataclass, field


@dataclass
class Notes:
    """Collects what is wrong and what is taken as stated, each sentence once."""

    failures: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        """Say that something is wrong."""
        if reason not in self.failures:
            self.failures.append(reason)

    def state(self, what: str) -> None:
        """Say that something was not recomputed."""
        if what not in self.stated:
            self.stated.append(what)

    def add(self, other: "Notes") -> None:
        """Take over what was found elsewhere."""
        for reason in other.failures:
            self.fail(reason)
        for what in other.stated:
            self.state(what)


@dataclass(frozen=True)
class Verdict:
    """The outcome for one row: what it is about, whether it was covered at all, and the notes."""

    about: str
    method: str
    notes: Notes
    covered: bool = True

"""The branches of a space: which choices open others, and what is open in each branch."""

from orchestrator.space import Choice, Number, Space


def branches_off(choice: Choice) -> bool:
    """Whether a choice decides which other dimensions are open."""
    return len(choice.values) > 1 and any(branch.dimensions for branch in choice.branches)


def branches(space: Space) -> list[tuple[str, list[Number | Choice]]]:
    """Each branch of a space: the choices that lead there, in words, and what else is open there.

    A space in which no choice opens others has one, of no words.
    """
    found: list[tuple[str, list[Number | Choice]]] = [("", [])]
    for one in space.dimensions:
        options: list[tuple[str, list[Number | Choice]]] = [("", [one])]
        if isinstance(one, Choice) and branches_off(one):
            below = zip(one.values, one.branches, strict=True)
            options = [(joined(f"{one.path}={value}", more), own) for value, b in below for more, own in branches(b)]
        elif isinstance(one, Choice):
            options = [(more, [one, *own]) for more, own in branches(one.branches[0])]
        found = [(joined(word, more), [*before, *own]) for word, before in found for more, own in options]
    return found


def joined(*words: str) -> str:
    return ", ".join(word for word in words if word)

"""Nests of dicts, lists and tuples as leaves by place, to be compared or stored flat."""


def leaves(value, place=""):
    """(place, leaf) of everything in a nest: ['a'] in a dict, [0] in a list, (0) in a tuple.

    An empty container is a leaf; what has only attributes counts as a dict of them.
    """
    if hasattr(value, "__dict__") and not hasattr(value, "dtype") and not isinstance(value, dict):
        value = vars(value)
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{place}[{name!r}]")
    elif isinstance(value, (list, tuple)) and value:
        for i, inner in enumerate(value):
            yield from leaves(
                inner, f"{place}[{i}]" if isinstance(value, list) else f"{place}({i})"
            )
    else:
        yield place, dict(value) if isinstance(value, dict) else value

"""Seeded damage to small valid files: each is then a value, or one error in a sentence."""

import copy
import json

RAW = {  # what json.dumps cannot write, by the string that stands for it
    "@digits": "9" * 5000,
    "@deep": "[" * 100_000 + "]" * 100_000,
    "@half": '"\\ud800"',
}
VALUES = (
    None, True, 0, -1, 2**31, 2**63, 10**299, 0.5, 1e308, float("nan"), "", " ", "x", "\0",
    "é" * 50, [], {}, [1], [None], [[]], {"": {}}, {"text": 1}, ["a", "b"], *RAW,
)  # fmt: skip
NAMES = ("id", "title", "", "x", "type", "text_config", "dtype", "shape", "weight_map")


def tree(rng, value, values=VALUES, names=NAMES):
    """`value` with one to three of its parts, at any depth, replaced by one of `values`, removed,
    added by one of `names`, repeated or, a whole number, made another."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        nodes = [value]
        for node in nodes:
            inside = node.values() if isinstance(node, dict) else node
            nodes += [x for x in inside if isinstance(x, dict | list) and x]
        node = rng.choice(nodes)
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys) if keys and rng.random() < 0.85 else None
        odd, kind = copy.deepcopy(rng.choice(values)), rng.random()
        if key is None and isinstance(node, list):
            node.append(odd)
        elif key is None:
            node[rng.choice(names)] = odd
        elif kind < 0.15:
            del node[key]
        elif kind < 0.3:
            node[key] = copy.deepcopy(node[rng.choice(keys)])
        elif kind < 0.5 and isinstance(node[key], int):
            node[key] += rng.choice((-1, 1, 8, 1 << 20, 1 << 40))
        else:
            node[key] = odd
    return value


def written(value):
    """As JSON; what json.dumps cannot write stands for itself."""
    text = json.dumps(value, ensure_ascii=False)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


def raw(rng, content):
    """`content` with some of its bytes changed, cut, repeated or removed."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, kind = rng.randrange(len(content) + 1), rng.random()
        if kind < 0.4 and at < len(content):
            content[at] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
        elif kind < 0.5:
            del content[at:]
        elif kind < 0.7:
            del content[at : at + rng.choice((1, 4, 100))]
        else:
            content[at:at] = rng.choice((content[at : at + 50], b"\n", b"\xff\xff", b'"', b"{"))
    return bytes(content)


def damaged(rng, value, bytes_of=written):
    """A valid file with damaged fields, or with damaged bytes, or both."""
    kind = rng.random()
    content = bytes_of(tree(rng, value) if kind < 0.7 else value)
    return raw(rng, content) if kind > 0.6 else content

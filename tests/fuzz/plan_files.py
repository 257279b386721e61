"""Files for ``fedloge compare``, ``sweep`` and ``study``: mostly well formed, with something odd here and there."""

from hypothesis import strategies as st

ODD_TEXTS = ["", " ", "null", "off", "[", "{", "a: b", "1e-4", "-0", "..", ".", "/", "FedAvg*", "fedavg", "FEDAVG"]
ODD_TEXTS += ["[x] $a$ <b> | _ 🐝", "é", "e\u0301", "x" * 300, "os.system", "torch.nn.Linear", "no.Class", "${args}"]
ODD_TEXTS += ["comparison.csv", "\x00", "\n", "'", "--help", "model.help", "2026-01-31", "seed-0", "%s", "\\"]
NUMBERS = st.integers(-2, 3) | st.sampled_from([10**12, 0.1, -0.1, 1e-9, 1e300, float("nan"), float("inf")])
SCALARS = st.none() | st.booleans() | NUMBERS | st.sampled_from(ODD_TEXTS)
KEYS = st.sampled_from(ODD_TEXTS) | NUMBERS
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(ODD_TEXTS) | NUMBERS, inner, max_size=2)
    ),
    max_leaves=4,
)


def mostly(valid):
    """A valid value eleven times out of twelve."""
    return st.integers(0, 11).flatmap(lambda number: JUNK if number == 11 else valid)


def section(required, optional):
    """A mapping whose values are mostly valid, at times with an odd key."""
    plain = st.fixed_dictionaries(
        {key: mostly(value) for key, value in required.items()},
        optional={key: mostly(value) for key, value in optional.items()},
    )
    odd = st.dictionaries(st.sampled_from(ODD_TEXTS), JUNK, min_size=1, max_size=1)
    both = st.builds(lambda first, second: {**first, **second}, plain, odd)
    return st.integers(0, 11).flatmap(lambda number: both if number == 11 else plain)


BACKBONE = st.sampled_from(
    [{"class_path": "SmallCNN", "init_args": {"channels": [4], "in_channels": 1}}, "SmallCNN", {"channels": [8]}]
)
METHODS = st.sampled_from(["FedAvg", "FedLoGe", "FedRep", "FedProx"])
WHOLE, SHARE = st.integers(-2, 3), st.sampled_from([0.1, "1e-4", 0, 1.0])
OPTIONS = {
    "lr": SHARE,
    "momentum": SHARE,
    "backbone": BACKBONE,
    "backbone.channels": st.just([4, 8]),
    "init_args": st.just({"lr": 0.5}),
}
TRAINER = section({}, {"rounds": WHOLE, "executor": st.just("serial"), "local_epochs": WHOLE})
MODEL = section({"init_args": section({"backbone": BACKBONE}, {"lr": SHARE})}, {})
DATA = section({"source": st.just("Digits")}, {"alpha": SHARE, "num_clients": WHOLE})
SEEDS = st.sampled_from([0, [0, 1], "0,1", [1, 1]])


def entries(names, entry):
    """One or two named entries."""
    odd = st.integers(0, 11).flatmap(lambda number: st.sampled_from(ODD_TEXTS) if number == 11 else names)
    return st.dictionaries(odd, mostly(entry), min_size=1, max_size=2)


COMPARISONS = section(
    {"methods": entries(METHODS, section({}, OPTIONS)), "model": MODEL, "data": DATA},
    {"trainer": TRAINER, "seeds": SEEDS, "jobs": st.integers(0, 3), "output_dir": st.just("out")},
)

VALUES = {
    "model.lr": SHARE,
    "model.gamma": SHARE,
    "model.backbone": BACKBONE,
    "model.backbone.channels": st.just([4]) | st.just([8, 16]),
    "model.ga": st.booleans(),
    "data.alpha": SHARE,
    "trainer.seed": st.integers(0, 3),
    "trainer.executor": st.sampled_from(["serial", "processes"]),
    "seed_everything": st.integers(0, 3),
}
RANGE = section({"min": st.just(0.1), "max": st.just(1.0)}, {"q": st.just(0.1), "distribution": st.just("q_uniform")})


def parameter(name):
    """A parameter's name and what a sweep says of it: values, a value, or a range."""
    values, weights = st.lists(mostly(VALUES[name]), min_size=1, max_size=2), st.just([0.5, 0.5])
    said = section({"values": values}, {}) | section({"value": VALUES[name]}, {})
    said |= section({"values": values, "probabilities": weights}, {}) | RANGE
    *outer, last = name.split(".", 1)
    nested = said.map(lambda content: (outer[0], {"parameters": {last: content}}) if outer else (name, content))
    return st.tuples(st.just(name), said) | nested


PARAMETERS = st.lists(st.sampled_from(sorted(VALUES)).flatmap(parameter), min_size=1, max_size=2).map(dict)
WORDS = st.sampled_from(
    ["--model=FedAvg", "--model.lr", "1e-4", "--trainer.rounds=2", "--quiet", "--report=false", "x"]
)
SWEEPS = section(
    {
        "method": st.sampled_from(["grid", "random"]),
        "parameters": PARAMETERS,
        "command": st.lists(WORDS, max_size=2).map(
            lambda words: ["fedloge", "fit", "--config", "base.yaml", *words, "${args}"]
        ),
        "run_cap": st.integers(1, 2),
    },
    {"metric": section({"name": st.just("global/acc")}, {"goal": st.sampled_from(["maximize", "minimize"])})},
)

ROWS = section(
    {},
    {
        "method": METHODS,
        "options": section({}, OPTIONS),
        "realign": section({}, {"ga": st.booleans(), "finetune_epochs": WHOLE}),
        "printed": st.dictionaries(st.sampled_from(["GM", "PM"]), NUMBERS, max_size=1),
    },
)
AT = section({}, {"seeds": SEEDS, "trainer.rounds": WHOLE, "methods.FedRep.lr": SHARE, "data": st.just({"alpha": 1})})
FRAMES = section(
    {"kind": st.just("frames"), "at": st.just({"tiny": {"num_classes": 3, "dim": 8}})},
    {"rows": entries(METHODS, section({}, {"options": section({}, {"beta": SHARE})})), "measures": st.just(["angle"])},
)
TRAINED = section(
    {"rows": entries(METHODS | st.sampled_from(["0.1", "1"]), ROWS), "scales": st.just({"tiny": "scale.yaml"})},
    {
        "at": st.fixed_dictionaries({"tiny": AT}),
        "measures": st.lists(st.sampled_from(["GM", "PM", "GM as trained", "ρ(m, v)"]), min_size=1, max_size=2),
        "settings": entries(st.sampled_from(["a", "b"]), section({}, {"options": AT})),
        "reach": st.just({"tiny": 0.5}),
        "kind": st.sampled_from(["table", "tsne", "curve"]),
        "notes": st.lists(st.just("a note"), max_size=1),
        "title": st.just("A study"),
        "x": st.just("x"),
    },
)

STUDIES = st.integers(0, 7).flatmap(lambda number: FRAMES if number == 7 else TRAINED)

VALID_WORDS = ["--seeds=0,1", "--trainer.rounds=2", "--model.lr=1e-4", "--model.backbone.channels=[4]"]
NAMES = ["seeds", "jobs", "trainer.rounds", "model.lr", "model", "methods.FedAvg.lr", "x", "trainer.run_dir", "methods"]
NAMES += ["model.backbone.channels", "config", "seed_everything", "report", "data.source", "trainer"]
ODD_WORDS = st.builds(
    lambda name, joint, value: [f"--{name}={value}"] if joint else [f"--{name}", str(value)],
    *(st.sampled_from(NAMES), st.booleans(), SCALARS),
)
OVERRIDES = st.just([]) | st.sampled_from(VALID_WORDS).map(lambda word: word.split("=")) | ODD_WORDS

import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.registry import available, create, parse_spec, resolve


def test_every_builtin_name_resolves():
    for kind in ("encoder", "index", "router", "policy", "flow", "bound", "store", "backend"):
        for name in available(kind):
            assert isinstance(resolve(kind, name), type), (kind, name)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown router 'kn'; one of .*knn"):
        resolve("router", "kn")
    with pytest.raises(ConfigError, match="unknown registry kind"):
        available("routers")


def test_unknown_parameter():
    with pytest.raises(ConfigError, match="router 'knn' has no parameter 'neighbours'; one of k, shrinkage"):
        create("router", "knn", neighbours=3)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("knn", ("knn", {})),
        (" knn:k=40 ", ("knn", {"k": 40})),
        ("hnsw:keep=true,background=false", ("hnsw", {"keep": True, "background": False})),
        ("knn:k=40, shrinkage=2.5,index=exact", ("knn", {"k": 40, "shrinkage": 2.5, "index": "exact"})),
    ],
)
def test_parse_spec(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize("spec", ["knn:40", "knn:k=1,oops", "knn:1k=3"])
def test_parse_spec_refuses(spec):
    with pytest.raises(ConfigError, match="write NAME:key=value"):
        parse_spec(spec)

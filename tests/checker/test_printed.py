import pytest
from torch import nn

from tests.checker.runs import small_vae
from vaerdict.checker.printed import read_call, read_printed


@pytest.mark.parametrize("family", ["lipschitz", "conv"])
def test_a_model_is_read_back(family: str) -> None:
    vae = small_vae(family=family, spread="bounded")
    printed = read_printed(repr(vae))
    assert printed.kind == "GaussianVAE"
    assert printed.facts == {
        "name": "toy", "spread": "bounded", "std": 0.1, "input_shape": (1, 4, 4), "latent_shape": (2,),
        "input_range": (0.0, 1.0), "returns_pair": False,
    }  # fmt: skip
    for part, module in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        assert printed.in_a_row(part) == [(f"{part}.{name}", repr(one)) for name, one in module.named_children()]


def test_nested_sequences_are_one_row_and_other_containers_are_not() -> None:
    nested = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh())), nn.Sigmoid())
    printed = read_printed(repr(nn.ModuleDict({"encoder": nested, "decoder": nn.ModuleList([nn.ReLU()])})))
    assert printed.in_a_row("encoder") == [
        ("encoder.0.0", "ReLU()"),
        ("encoder.0.1.0", "Tanh()"),
        ("encoder.1", "Sigmoid()"),
    ]
    assert printed.in_a_row("decoder") is None


def test_a_name_cannot_pass_for_a_fact() -> None:
    vae = small_vae()
    vae.name = "x', spread='constant', std=9.0, y='\n  (encoder): Sequential("
    printed = read_printed(repr(vae))
    assert printed.facts["std"] == 0.1
    expected = [(f"encoder.{name}", repr(layer)) for name, layer in vae.encoder.named_children()]
    assert printed.in_a_row("encoder") == expected


def test_words_without_quotes_are_text() -> None:
    call = read_call("Conv2d(1, 2, padding=same, bias=False, eps=nan)")
    assert call is not None
    assert call.by_position == (1, 2)
    assert call.by_name["padding"] == "same"
    assert call.by_name["bias"] is False
    assert call.by_name["eps"] != call.by_name["eps"]


@pytest.mark.parametrize("text", ["ReLU", "a.b()", "import os", "f(g())", "f(1 + x)", "x = 1"])
def test_anything_else_is_no_layer(text: str) -> None:
    assert read_call(text) is None

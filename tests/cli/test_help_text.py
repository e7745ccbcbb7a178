"""`--help` shows every setting with its comment and its choices."""

from __future__ import annotations

import textwrap

from deepclust.cli.configure import CONF, composed
from deepclust.cli.help_text import WIDTH, comments_of, settings_text
from deepclust.cli.schema import schema
from deepclust.runtime.settings import Group, setting


def test_comments_and_choices_stand_beside_the_settings(tmp_path):
    conf = tmp_path / "x.yaml"
    conf.write_text(
        textwrap.dedent(
            """\
            # Of the whole file.

            # Above it.
            a: 1
            b: two        # one | two
            c:
              d: null     # inside
            """
        )
    )
    assert comments_of(conf.read_text())["c.d"] == ([], "inside")
    group = Group(
        "x",
        {
            "a": setting(1, "declared", at_least=1, whole=True),
            "b": setting("two", "declared", choices=("one", "two")),
            "c": Group("c", {"d": setting(None, "declared", above=0, at_most=1), "e": setting(True, "so", flag=True)}),
            "n": setting(None, "declared", text=True),
        },
    )
    values = {"a": 1, "b": "two", "c": {"d": None, "e": True}, "n": [1, None]}
    shown = settings_text(values, group, conf, lambda key: ["p", "q"] if key == "n" else [])
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "# Above it.",
        "a: 1 # 1 or more",
        "b: two # one | two",
        "c:",
        "d: null # inside; above 0 to 1",
        "e: true # so; true | false",
        "n: [1,null] # declared; p | q",
    ]


def test_the_help_of_train_has_every_setting_and_fits_a_screen():
    values = composed("train", ["loss=temi"])
    shown = settings_text(values, schema("train", values), CONF / "train.yaml", lambda key: [])
    keys = [line.split(":")[0].strip() for line in shown.splitlines() if not line.lstrip().startswith("#")]
    assert {*values, *values["loss"]["temi"], *values["trainer"], *values["data"]["columns"]} <= {*keys}
    assert "mlp | linear | normed_linear | student_t" in shown
    assert "for every loss of the run" in shown
    own = [line for line in shown.splitlines() if "# " in line and not line.lstrip().startswith("# ")]
    assert max(map(len, own)) <= WIDTH

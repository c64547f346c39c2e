"""Figures drawn by a process beside are those drawn here, byte for byte; one that cannot be drawn is no silence."""

import json

import pytest
from markupsafe import Markup

from reports.drawing import drawing_beside, drawn


def specification(mark):
    values = [{"x": x, "y": x * x} for x in range(5)]
    encoding = {"x": {"field": "x", "type": "quantitative"}, "y": {"field": "y", "type": "quantitative"}}
    data = {"data": {"values": values}, "mark": mark, "encoding": encoding, "width": 70, "height": 50}
    return json.dumps(data | {"config": {"axis": {"titleFontWeight": "normal"}}})  # of two fonts the order is random


def test_drawn_beside_and_drawn_here_are_the_same_bytes(tmp_path):
    marks = ("point", "line", "bar")
    here = [drawn(specification(mark), mark, tmp_path / "here") for mark in marks]
    with drawing_beside():
        beside = [drawn(specification(mark), mark, tmp_path / "beside") for mark in marks]
        assert [Markup(figure) for figure in beside] == here
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == sorted(f"{mark}.{suffix}" for mark in marks for suffix in ("svg", "png", "pdf"))
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "beside" / name).read_bytes(), name


def test_what_cannot_be_drawn_is_an_error(tmp_path):
    with pytest.raises(OSError, match="figures could not be drawn"), drawing_beside():
        drawn('{"mark": 7}', "none", tmp_path)

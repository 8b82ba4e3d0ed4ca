import base64
import json
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from common.report import curves, plots
from common.report.build import SMOKE_TEST, SYNTHETIC, render_page, write_report
from common.report.extras import Extras, History
from common.report.schema import ReportError
from common.report.style import arm_styles, to_picture
from common.report.tables import arm_table, paired_table, site_table

ARMS = (
    "local_only",
    "pooled",
    "fedavg",
    "fedavg_local_stats",
    "silobn",
    "fedbn",
    "fedbn_head",
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collect attributes and text; fail on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def write(tmp_path, run, extras=None):
    report = run.report()
    path = write_report(tmp_path, report, extras or run.extras())
    return report, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, make_run):
    folder = tmp_path_factory.mktemp("synthetic")
    return folder, *write(folder, make_run(kind="synthetic"))


@pytest.mark.parametrize(
    "options",
    [
        {"arms": ("fedbn_head",), "sites": 1, "units": ("breast",)},
        {"units": ("image",), "patients": 12, "known": False, "kind": "real"},
        {"prevalence": 0.0, "patients": 15, "status": "failed"},
        {"arms": ("mine", "other", "fedavg"), "status": "complete_with_absences"},
    ],
)
def test_page_is_whole_for_every_kind_of_run(tmp_path, make_run, options):
    report, text = write(tmp_path, make_run(**options))
    page = Page(text)
    for arm in report["arms"]:
        assert arm["name"] in page.text
    assert "not a medical device" in page.text.lower()
    assert not re.search(r"\bnan\b|\bNone\b", page.text)


def test_json_beside_the_page_is_the_report(synthetic):
    folder, report, _ = synthetic
    assert json.loads((folder / "report.json").read_text()) == report


def test_page_asks_nobody_and_runs_nothing(synthetic):
    _, _, text = synthetic
    page = Page(text)
    assert "<script" not in text and "@import" not in text and "url(" not in text
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "srcset", "action", "data"}:
            assert value.startswith(("data:image/png;base64,", "#"))
    links = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert links <= {value for _, name, value in page.attributes if name == "id"}


def test_synthetic_is_said_where_nobody_can_miss_it(synthetic):
    _, _, text = synthetic
    assert f'<div class="banner" role="alert">\n<strong>{SYNTHETIC}' in text
    assert re.search(rf"<title>\[{SYNTHETIC}\]", text)
    assert re.search(r"\.banner \{ position: sticky; top: 0;", text)


def test_real_data_with_known_patients_has_no_banner(tmp_path, make_run):
    _, text = write(tmp_path, make_run(kind="real", sites=1), Extras())
    assert 'class="banner"' not in text and SYNTHETIC not in text


def test_unknown_patients_are_called_a_smoke_test(tmp_path, make_run):
    run = make_run(kind="real", known=False, units=("image",), sites=1)
    _, text = write(tmp_path, run, Extras())
    assert f"<strong>{SMOKE_TEST}</strong>" in text


def test_warning_is_burnt_into_every_picture(tmp_path, make_run, monkeypatch):
    drawn = []

    def watch(figure, notice):
        drawn.append(figure)
        return to_picture(figure, notice)

    monkeypatch.setattr("common.report.build.to_picture", watch)
    write(tmp_path, make_run(sites=1, known=False))
    assert len(drawn) == 13
    warning = f"{SYNTHETIC} · {SMOKE_TEST}"
    assert {figure.get_supxlabel() for figure in drawn} == {warning}


def test_text_is_escaped(tmp_path, make_run):
    run = make_run(sites=1)
    extras = Extras(title="<b>x</b>", plan_words=["<i>"], command="a && b")
    _, text = write(tmp_path, run, extras)
    assert "<b>x</b>" not in text and "<i>\n" not in text and "a &amp;&amp; b" in text


def test_page_without_extras_leaves_sections_out(tmp_path, make_run):
    _, text = write(tmp_path, make_run(sites=1), Extras())
    for section in ("curves", "learning", "samples"):
        assert f'id="{section}"' not in text


@pytest.mark.parametrize("arms", [("fedavg",), ("fedavg", "fedbn_head")])
def test_the_caption_names_differences_only_where_there_are_some(
    tmp_path, make_run, arms
):
    _, text = write(tmp_path, make_run(arms=arms), Extras())
    assert "Mean ROC-AUC over hospitals for each arm" in text or len(arms) > 1
    assert ("Right: paired differences" in text) == (len(arms) > 1)


def test_a_wrong_report_writes_nothing(tmp_path, make_run):
    run = make_run(sites=1)
    report = run.report() | {"status": "done"}
    with pytest.raises(ReportError):
        write_report(tmp_path, report, Extras())
    assert not list(tmp_path.iterdir())


def test_a_curve_of_an_unknown_arm_is_refused(tmp_path, make_run):
    stranger = Extras(histories=[History("stranger", "hospital_a", [1], [0.5], [0.7])])
    with pytest.raises(ValueError, match="stranger"):
        write_report(tmp_path, make_run(sites=1).report(), stranger)


def test_seven_arms_at_four_sites_are_small(tmp_path, make_run):
    run = make_run(arms=ARMS, sites=4)
    path = write_report(tmp_path, run.report(), run.extras())
    assert path.stat().st_size < 6_000_000
    pictures = re.findall(r"base64,([^\"]+)", path.read_text())
    assert len(pictures) == 13
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path, make_run):
    before = dict(matplotlib.rcParams)
    write(tmp_path, make_run(sites=1, arms=("fedbn",)), Extras())
    assert dict(matplotlib.rcParams) == before


def test_arms_keep_their_colour_in_every_report():
    first, second = arm_styles(["fedavg", "x", "y"]), arm_styles(["y", "fedavg"])
    assert first["fedavg"] == second["fedavg"]
    many = arm_styles([*ARMS, *"abcdefghijkl"])
    assert len({(s.colour, s.dash) for s in many.values()}) == 19


def test_tables_show_the_numbers_of_the_report(make_run):
    report = make_run().report()
    row = arm_table(report, "breast", "selected").groups[0].rows[0]
    mean = report["arms"][0]["results"][0]["mean"]
    assert row.cells[0].text == f"{mean['roc_auc']['value']:.3f}"
    assert row.cells[1].interval == "3 seeds"
    assert row.cells[-1].text == f"{mean['brier_corrected']['value']:.3f}"
    sites = site_table(report, "exam", "last").groups
    assert [group.name for group in sites] == ["hospital_a", "hospital_b"]
    assert "60 test patients" in sites[0].words


def test_equal_reasons_share_a_foot_note(make_run):
    table = arm_table(make_run(patients=15, sites=1).report(), "breast", "selected")
    assert len(table.notes) == 1
    assert {cell.note for cell in table.groups[0].rows[0].cells} == {1, None}


def test_only_intervals_without_zero_are_bold(make_run):
    report = make_run().report()
    for pair in report["paired"]:
        pair |= {"difference": 0.1, "low": -0.1, "high": 0.2}
    report["paired"][0]["low"] = 0.05
    table = paired_table(report, "breast", by_site=False)
    cells = table.groups[0].rows[0].cells
    assert [cell.strong for cell in cells] == [True] + [False] * 7


def test_cross_site_matrix_prints_its_numbers(make_run):
    matrix = make_run().report()["cross_site"][0]
    (axis,) = plots.cross_site_plot([matrix]).axes
    texts = [text.get_text() for text in axis.texts]
    expected = [
        "–" if value is None else f"{value:.2f}"
        for row in matrix["roc_auc"]
        for value in row
    ]
    assert texts == expected


def test_a_cell_without_a_value_says_why(make_run):
    run = make_run()
    report, note = run.report(), "north at south: no value, for a <reason>"
    report["cross_site"][0]["notes"] = [note]
    page = render_page(report, run.extras())
    assert "no value, for a &lt;reason&gt;" in page
    report["cross_site"][0]["notes"] = []
    assert "no value" not in render_page(report, run.extras())


def test_precision_is_drawn_against_its_chance(make_run):
    run = make_run(sites=1)
    extras = run.extras()
    styles = arm_styles(run.arms)
    (axis,) = curves.precision_recall_plot(extras.curves, styles).axes
    chance = axis.lines[0].get_ydata()
    assert np.unique(chance) == pytest.approx(extras.curves[0].prevalence)


def test_selected_round_is_marked(make_run):
    run = make_run(sites=1, arms=("fedavg",))
    styles = arm_styles(run.arms)
    figure = curves.learning_plot(
        run.extras().histories, "validation", {"fedavg": 8}, styles, "roc_auc"
    )
    assert list(figure.axes[0].lines[-1].get_xdata()) == [8]

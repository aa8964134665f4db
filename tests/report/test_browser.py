"""The report in a real browser: drawn, hovered over, zoomed, by mouse and by keyboard, at every width, in the dark."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time

import pytest

from loopwright.report.page import write_report
from loopwright.report.reading import read_run
from loopwright.report.views import Series

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium")

LOSS = "#chart-0"


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Return a function that opens the report of views; what the page complains of or loads is an error at the end."""
    complaints, requests, pages = [], [], []

    def open_report(*views, width=1000, scheme="light", **options):
        path = write_report(views, tmp_path / "report.html")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        page.set_default_timeout(20_000)
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
        page.wait_for_selector(f"{LOSS} .js-line", timeout=60_000)
        return page

    yield open_report
    for page in pages:
        page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file://", "data:", "blob:"))] == []
    assert len([url for url in requests if url.startswith("file://")]) == len(pages)


def line_of(page, chart=LOSS, number=0):
    return lines_in(page, chart).nth(number).get_attribute("d")


def lines_in(page, chart=LOSS):
    return page.locator(f"{chart} .scatterlayer .js-line")  # those of the legend are others


def until(page, claim):
    """Wait until an expression is true; the page's policy forbids the browser to evaluate it again and again."""
    end = time.monotonic() + 20
    while not page.evaluate(claim):
        assert time.monotonic() < end, claim
        page.wait_for_timeout(50)


def x_range(page, chart=LOSS):
    low, high = page.eval_on_selector(chart, "place => place._fullLayout.xaxis.range")
    return high - low


def plot_box(page, chart=LOSS):
    page.locator(chart).scroll_into_view_if_needed()
    return page.locator(f"{chart} .nsewdrag").first.bounding_box()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_all_charts_are_drawn_and_nothing_is_wider_than_the_page(width, scheme, show, resumed, whole):
    page = show(read_run(resumed), read_run(whole), width=width, scheme=scheme)
    heights = "[...document.querySelectorAll('.plot')].map((place) => place.offsetHeight)"
    before = page.evaluate(heights)
    page.locator("#more-curves > summary").click()
    page.wait_for_selector("#more-curves[open]")
    num_charts = page.locator(".plot").count()
    assert num_charts >= 4
    for number in range(num_charts):
        page.locator(f"#chart-{number}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#chart-{number} .js-line", state="attached")
        box = page.locator(f"#chart-{number} .main-svg").first.bounding_box()
        assert box["width"] > 200
        assert box["x"] + box["width"] <= width
    assert page.evaluate(heights) == before, "what was below a chart has moved, as somebody was about to click on it"
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    tick = page.eval_on_selector(f"{LOSS} .xtick text", "text => getComputedStyle(text).fill")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    assert (luminance(tick) > 0.5) == (scheme == "dark")


def luminance(colour):
    return sum(int(part) for part in colour.strip("rgba()").split(",")[:3]) / 765


def test_hovering_shows_step_and_value(show, resumed):
    view = read_run(resumed)
    page = show(view)
    box = plot_box(page)
    low, high = page.eval_on_selector(LOSS, "place => place._fullLayout.xaxis.range")
    page.mouse.move(box["x"] + box["width"] * (4 - low) / (high - low), box["y"] + box["height"] / 2)
    page.wait_for_selector(f"{LOSS} .hoverlayer text")
    shown = " ".join(page.locator(f"{LOSS} .hoverlayer text").all_text_contents())
    assert "step 4" in shown
    assert f"{view.series['loss'].values[1]:.5g}" in shown


def test_logarithmic_axis_by_keyboard(show, resumed):
    page = show(read_run(resumed))
    before = line_of(page)
    page.focus("#log-scale")
    page.keyboard.press("Space")
    until(page, f"document.querySelector('{LOSS}')._fullLayout.yaxis.type === 'log'")
    assert line_of(page) != before
    page.keyboard.press("Space")
    until(page, f"document.querySelector('{LOSS}')._fullLayout.yaxis.type === 'linear'")


def test_smoothing_by_keyboard_keeps_the_values_faintly(show, resumed):
    page = show(read_run(resumed))
    before = line_of(page)
    num_lines = lines_in(page).count()
    page.focus("#smoothing")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#smoothing-value") == "0.80"
    assert lines_in(page).count() == 2 * num_lines
    lines = [line_of(page, number=number) for number in range(2 * num_lines)]
    assert len(set(lines)) == 2 * num_lines
    page.keyboard.press("Home")
    assert page.text_content("#smoothing-value") == "off"
    assert line_of(page) == before


def test_dragging_zooms_and_the_button_shows_all_again(show, resumed):
    page = show(read_run(resumed))
    whole = x_range(page)
    box = plot_box(page)
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert x_range(page) < 0.6 * whole
    page.get_by_role("button", name="Whole curves").click()
    assert x_range(page) == pytest.approx(whole)
    page.get_by_role("button", name="Zoom in: Loss").click()
    assert x_range(page) == pytest.approx(whole / 2)


def test_everything_is_reached_by_keyboard(show, resumed):
    view = read_run(resumed)
    page = show(view)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # it is seen when it has the focus
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    tools = ("log-scale", "smoothing", "reset-all")
    assert [one for one in dict.fromkeys(reached) if one in tools] == list(tools)
    assert {"chart-0", "chart-1", "chart-2", "+", "all"} <= set(reached)
    assert any(one.startswith("All arguments") for one in reached)


def test_chart_is_read_by_arrow_keys(show, resumed):
    view = read_run(resumed)
    page = show(view)
    page.focus(LOSS)
    page.keyboard.press("ArrowRight")
    assert page.text_content("#spoken").startswith(f"step 2: loss {view.series['loss'].values[0]:.5g}"[:18])
    page.wait_for_selector(f"{LOSS} .hoverlayer text")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#spoken").startswith("step 3: eval_loss")
    page.keyboard.press("End")
    assert page.text_content("#spoken").startswith(f"step {view.last_step}:")
    whole = x_range(page)
    page.keyboard.press("+")
    assert x_range(page) < whole
    page.keyboard.press("0")
    assert x_range(page) == pytest.approx(whole)


def test_colours_follow_the_system_while_the_page_is_open(show, resumed):
    page = show(read_run(resumed))
    tick = f"{LOSS} .xtick text"
    light = page.eval_on_selector(tick, "text => getComputedStyle(text).fill")
    page.emulate_media(color_scheme="dark")
    until(page, f"getComputedStyle(document.querySelector('{tick}')).fill !== '{light}'")
    assert luminance(page.eval_on_selector(tick, "text => getComputedStyle(text).fill")) > 0.5


def with_losses(view, values):
    number = len(values)
    steps, times = tuple(range(1, number + 1)), tuple(view.run.created_at + step for step in range(number))
    loss = Series("loss", steps, tuple(values), times, (view.attempts[0].number,) * number)
    return dataclasses.replace(view, series={"loss": loss})


def test_nan_is_a_gap_with_a_mark(show, whole):
    page = show(with_losses(read_run(whole), [3.0, 2.5, math.nan, 2.0, 1.5, math.inf, 1.0, 0.5]))
    assert page.locator(f"{LOSS} .scatterlayer .trace").first.locator(".js-line").count() == 3  # pieces
    assert page.locator(f"{LOSS} .scatterlayer .trace").nth(1).locator("path.point").count() == 2
    page.focus(LOSS)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#spoken") == "step 3: loss NaN"


def test_hundred_thousand_values_are_drawn_at_once(show, whole):
    values = [2 + math.sin(step / 300) for step in range(100_000)]
    values[54_321] = 50.0
    began = time.monotonic()
    page = show(with_losses(read_run(whole), values))
    assert time.monotonic() - began < 60
    seconds = page.evaluate(
        "async () => { const began = performance.now(); document.querySelector('#log-scale').click(); "
        "await new Promise(requestAnimationFrame); return (performance.now() - began) / 1000; }"
    )
    assert seconds < 5
    highest = page.eval_on_selector(LOSS, "place => Math.max(...place.data[0].y)")
    assert highest == 50.0
    assert "of 100,000 values are drawn" in page.text_content("figure")


def test_attacks_in_names_stay_text(show, hostile):
    page = show(read_run(hostile))
    page.locator("#more-curves > summary").click()
    for number in range(page.locator(".plot").count()):
        page.wait_for_selector(f"#chart-{number} .js-line", state="attached")
        page.focus(f"#chart-{number}")
        page.keyboard.press("ArrowRight")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img").count() == 0
    assert "<img src=x" in page.text_content("h1")
    assert any("<img src=x" in text for text in page.locator(".hoverlayer text").all_text_contents())


def test_paper_has_the_curves_and_no_tools(show, resumed):
    page = show(read_run(resumed), scheme="dark")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator(".tools").is_visible()
    assert page.locator(f"{LOSS} .js-line").first.is_visible()
    assert page.locator(f"{LOSS} .main-svg").first.bounding_box()["width"] == pytest.approx(660, abs=2)
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert luminance(page.eval_on_selector(f"{LOSS} .xtick text", "text => getComputedStyle(text).fill")) < 0.5
    page.evaluate("dispatchEvent(new Event('afterprint'))")

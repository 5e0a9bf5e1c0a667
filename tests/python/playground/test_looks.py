"""The layout and the accessibility of the playground.

The tests write screenshots for people to look at into build/playground.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import Browser

from service import Service
from support.clients import PICTURES
from support.playground import SCREENSHOTS, Playground

CONTROLS = {"button", "checkbox", "combobox", "DisclosureTriangle", "link", "spinbutton", "textbox"}

CONTRAST = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => colour.slice(0, 3)
        .map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return rgba('Canvas');
    };
    const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const found = [];
    const look = (node, kind, colour, back, least) => {
        const value = ratio(rgba(colour), back);
        found.push({what: `${kind} of ${node.tagName}#${node.id}.${node.className}`, value, fits: value >= least});
    };
    const isSeen = (node) => node.checkVisibility() && !node.closest('.unseen, .skip');
    for (const node of document.querySelectorAll('body *')) {
        if (!isSeen(node)) continue;
        const style = getComputedStyle(node);
        const hasText = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (hasText) look(node, 'text', style.color, behind(node), 4.5);
        if (node.placeholder) look(node, 'placeholder', getComputedStyle(node, '::placeholder').color, behind(node), 4.5);
        if (node.matches('input, select, textarea, .button:not(.primary)')) {
            look(node, 'border', style.borderTopColor, behind(node.parentElement), 3);
        }
        if (node.matches('button svg, .dot')) {
            look(node, 'shape', node.tagName === 'svg' ? style.color : style.backgroundColor,
                behind(node.tagName === 'svg' ? node : node.parentElement), 3);
        }
    }
    return found;
})()"""

FOCUS = """(() => {
    const node = document.activeElement;
    const style = getComputedStyle(node);
    const box = node.getBoundingClientRect();
    return {
        name: node === document.body ? 'BODY' : node.id || node.ariaLabel || node.textContent.trim(),
        seen: parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== 'none',
        inside: box.width > 0 && box.top < innerHeight && box.bottom > 0,
    };
})()"""


def fill(playground: Playground, tmp_path: Path) -> Playground:
    """Makes cards in every final state."""
    (tmp_path / "notes.jpg").write_text("not an image")
    playground.add_samples(*PICTURES)
    playground.add(tmp_path / "notes.jpg")
    playground.add_url(f"http://127.0.0.1:9/{'a-name-without-an-end-' * 9}.jpg")
    playground.caption()
    playground.run("document.querySelector('.commands').open = true")
    playground.wait("document.querySelector('.command')")
    return playground


def accessibility_nodes(playground: Playground) -> list[dict[str, Any]]:
    """Returns role, name and description of every node that a screen reader finds."""
    tree = playground.devtools.send("Accessibility.getFullAXTree")["nodes"]
    found = []
    for node in tree:
        if not node["ignored"]:
            values = {key: node.get(key, {}).get("value", "") for key in ("role", "name")}
            found.append(values | {"description": node.get("description", {}).get("value", "")})
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_and_shape_has_enough_contrast(
    browser: Browser, service: Service, tmp_path: Path, theme: str
) -> None:
    playground = Playground(browser, service.url, color_scheme=theme)
    playground.screenshot(SCREENSHOTS / f"{theme}-empty.png")
    fill(playground, tmp_path)
    playground.screenshot(SCREENSHOTS / f"{theme}.png")
    playground.parameter(num_beams=99)
    playground.click("#run")
    playground.run("document.querySelector('#key-fold').open = true")
    found = playground.run(CONTRAST)
    assert len(found) > 80 and {"text", "placeholder", "border", "shape"} <= {
        each["what"].split()[0] for each in found
    }
    assert [each for each in found if not each["fits"]] == []
    picture = playground.screenshot(SCREENSHOTS / f"{theme}-errors.png")
    brightness = ImageStat.Stat(Image.open(picture).convert("L")).mean[0]
    assert (brightness > 128) == (theme == "light")


def test_every_control_has_a_role_and_a_name(playground: Playground, tmp_path: Path) -> None:
    fill(playground, tmp_path)
    playground.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
    found = accessibility_nodes(playground)
    controls = [node for node in found if node["role"] in CONTROLS]
    assert len(controls) > 45
    assert [node for node in controls if not node["name"]] == []
    roles = {node["role"] for node in found}
    assert {
        "banner",
        "navigation",
        "main",
        "form",
        "region",
        "list",
        "listitem",
        "article",
    } <= roles
    assert {"status", "log", "heading", "group"} <= roles
    names = {node["name"] for node in controls}
    assert {
        "Prompt",
        "Model",
        "Image URL",
        "API key",
        "num_beams",
        f"Remove {PICTURES[0]}",
    } <= names
    (beams,) = (node for node in controls if node["name"] == "num_beams")
    assert "search wider" in beams["description"]
    levels = playground.run(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map((e) => +e.tagName[1])"
    )
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert playground.run("document.documentElement.lang") == "en" and playground.run(
        "document.title"
    )
    ids = playground.run("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    named = playground.run(
        """[...document.querySelectorAll('[aria-describedby], [aria-labelledby], label[for]')].flatMap(
            (e) => `${e.getAttribute('aria-describedby') ?? ''} ${e.getAttribute('aria-labelledby') ?? ''}
                ${e.htmlFor ?? ''}`.split(/\\s+/)).filter(Boolean)"""
    )
    assert set(named) <= set(ids)


def test_the_keyboard_reaches_every_control_in_order(playground: Playground) -> None:
    playground.add_samples(PICTURES[0])
    playground.caption()
    page = playground.page
    playground.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.keyboard.press("Tab")
    order = []
    while (focus := playground.run(FOCUS))["name"] not in order and focus["name"] != "BODY":
        assert focus["seen"] and focus["inside"], focus
        order.append(focus["name"])
        page.keyboard.press("Tab")
    expected = ["theme", "pick", "url", "add-url", "prompt", "model", "Parametersmodel's defaults"]
    expected += ["API keynone", "run", "copy-all", "clear"]
    expected += [
        f"Caption {PICTURES[0]}",
        f"Remove {PICTURES[0]}",
        "Copy the caption",
        "Command line",
    ]
    assert order[0] == "Skip to the captions"
    assert [name for name in order if name in expected] == expected, order
    # Enter opens the parameters, Control+Enter requests captions.
    playground.run("document.querySelector('#parameters summary').focus()")
    page.keyboard.press("Enter")
    playground.wait("document.querySelector('#parameters').open")
    playground.run("document.querySelector('#p-num_beams').focus()")
    page.keyboard.insert_text("2")
    page.keyboard.press("Control+Enter")
    playground.wait("document.querySelector('[data-state=done]')")
    assert playground.count_requests("/v1/captions") == 1


def test_the_theme_follows_the_system_until_one_is_chosen(
    browser: Browser, service: Service
) -> None:
    playground = Playground(browser, service.url, color_scheme="dark")
    page = playground.page
    background = "getComputedStyle(document.body).backgroundColor"
    pressed = "document.querySelector('#theme').getAttribute('aria-pressed')"
    dark = playground.run(background)
    assert playground.run(pressed) == "true"
    playground.click("#theme")
    light = playground.run(background)
    assert light != dark and playground.run(pressed) == "false"
    page.reload()
    playground.wait("document.querySelector('#state')?.dataset.state === 'ready'")
    assert playground.run(background) == light
    playground.click("#theme")
    assert playground.run(background) == dark
    page.emulate_media(color_scheme="light")
    assert playground.run(background) == light, (
        "choosing the theme of the system must follow the system"
    )


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_element_is_wider_than_the_screen(
    browser: Browser, service: Service, tmp_path: Path, width: int
) -> None:
    size = {"width": width, "height": 740}
    playground = Playground(browser, service.url, viewport=size, is_mobile=width < 500)
    fill(playground, tmp_path)
    playground.screenshot(SCREENSHOTS / f"{width}-wide.png")
    playground.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
    wide = """[document.documentElement, ...document.querySelectorAll('body *')]
        .filter((node) => node.checkVisibility() && !node.closest('.unseen'))
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5)
        .map((node) => node.outerHTML.slice(0, 120))"""
    assert playground.run(wide) == []
    assert playground.run("document.documentElement.scrollWidth") <= width
    small = """[...document.querySelectorAll('button, select, input, summary')]
        .filter((node) => node.checkVisibility())
        .filter((node) => node.getBoundingClientRect().height < 24)
        .map((node) => node.outerHTML.slice(0, 120))"""
    assert playground.run(small) == [], "touch targets must be at least 24 pixels high"

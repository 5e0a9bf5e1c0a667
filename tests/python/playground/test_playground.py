"""The playground in a real browser: images, captions, parameters."""

from __future__ import annotations

from service import Service
from support.clients import MODEL, PICTURE, PICTURES, caption, expected
from support.playground import Playground, unconditional


def test_the_page_loads_without_warnings_and_from_its_server_only(
    playground: Playground, service: Service
) -> None:
    assert playground.text("#state-text") == "Ready"
    assert playground.run("document.querySelector('#model').value") == MODEL
    playground.click("#sample")
    (card,) = playground.wait_for_cards()
    assert card["captions"] == [unconditional(PICTURE)]
    requests = playground.requests()
    assert len(requests) > 15
    assert [url for url in requests if not url.startswith((f"{service.url}/", "blob:"))] == []
    assert playground.problems() == []


def test_captions_equal_those_of_transformers_and_are_streamed_in_pieces(
    playground: Playground,
) -> None:
    playground.run(
        """globalThis.pieces = [];
        new MutationObserver((changes) => changes.forEach(({target, addedNodes}) => {
            if (target.className === 'caption') pieces.push(...[...addedNodes].map((n) => n.data));
        })).observe(document.querySelector('#cards'), {childList: true, subtree: true});"""
    )
    playground.add_samples(*PICTURES)
    cards = playground.caption()
    assert [card["name"] for card in cards] == list(PICTURES)
    assert [card["captions"] for card in cards] == [[caption(name)] for name in PICTURES]
    assert all(card["shown"] and card["facts"].startswith("192 × 192") for card in cards)
    assert all({"First text", "Total"} <= card["timings"].keys() for card in cards)
    assert playground.count_requests(f"/v2/models/{MODEL}/generate_stream") == len(PICTURES)
    # Pieces of three concurrent captions; concatenated they are the whole text.
    pieces = playground.run("pieces")
    assert len(pieces) > 3 * len(PICTURES)
    assert sorted("".join(pieces)) == sorted("".join(caption(name) for name in PICTURES))
    assert playground.copy(".captions .copy") == caption(PICTURES[0])
    assert playground.copy("#copy-all") == "\n".join(map(caption, PICTURES))
    announced = playground.run("document.querySelector('#announcer').innerText")
    assert all(f"{name}: {caption(name)}" in announced for name in PICTURES)


def test_an_image_that_the_browser_cannot_show_is_captioned(playground: Playground) -> None:
    playground.add_samples("robots.tiff")
    (card,) = playground.caption(None)
    assert (card["captions"], card["shown"]) == ([caption("robots.tiff", None)], False)


def test_an_image_url_is_fetched_by_the_server(playground: Playground, images_url: str) -> None:
    playground.add_url(f"{images_url}/{PICTURE}")
    (card,) = playground.caption()
    assert card["captions"] == [caption(PICTURE)]
    # A request by the page would disclose the address of its user.
    assert not [url for url in playground.requests() if url.startswith(images_url)]
    playground.add_url("cats.jpg")
    assert "http://" in playground.text("#url-problem") and len(playground.cards()) == 1


def test_images_can_be_pasted_and_dropped(playground: Playground, images_url: str) -> None:
    playground.run(
        f"""(async () => {{
            const blob = await (await fetch('playground/sample.jpg')).blob();
            const withFile = () => {{
                const data = new DataTransfer();
                data.items.add(new File([blob], 'one.jpg', {{type: 'image/jpeg'}}));
                return data;
            }};
            const withText = new DataTransfer();
            withText.setData('text/plain', '{images_url}/{PICTURE}');
            const send = (Kind, name, field, data) => document.body.dispatchEvent(
                new Kind(name, {{[field]: data, bubbles: true, cancelable: true}}));
            send(ClipboardEvent, 'paste', 'clipboardData', withFile());
            send(ClipboardEvent, 'paste', 'clipboardData', withText);
            send(DragEvent, 'dragenter', 'dataTransfer', withFile());
            send(DragEvent, 'drop', 'dataTransfer', withFile());
        }})()"""
    )
    cards = playground.caption()
    assert [card["name"] for card in cards] == ["one.jpg", PICTURE, "one.jpg"]
    assert [card["captions"] for card in cards] == [[caption(PICTURE)]] * 3
    assert not playground.run("document.documentElement.hasAttribute('data-dropping')")


def test_parameters_change_the_captions(playground: Playground) -> None:
    beams = {"num_beams": 3, "num_return_sequences": 3}
    playground.add_samples("robots.tiff")
    playground.parameter(**beams)
    assert playground.text("#parameters-count") == "2 set"
    (card,) = playground.caption(None)
    assert card["captions"] == [each["text"] for each in expected("robots.tiff", None, beams)]
    assert len(card["captions"]) == 3
    assert playground.count_requests("/v1/captions") == 1
    playground.click("#reset")
    assert playground.text("#parameters-count") == "model's defaults"
    (card,) = playground.caption(None)
    assert card["captions"] == [caption("robots.tiff", None)]
    playground.parameter(bad_words="three\n\n two ", early_stopping='"never"', max_new_tokens=6)
    (card,) = playground.caption(None)
    assert card["captions"][0] and not {"three", "two"} & set(card["captions"][0].split())


def test_the_server_timing_is_shown(playground: Playground) -> None:
    playground.run(
        """(() => {
            const real = fetch;
            globalThis.fetch = async (...request) => {
                const reply = await real(...request);
                const headers = new Headers(reply.headers);
                headers.set('server-timing', 'queue;dur=1.25, compute;dur=1234.5;desc="x", cache;desc=hit, odd');
                headers.set('x-image-fetch-time-ms', '12');
                return new Response(reply.body, {status: reply.status, headers});
            };
        })()"""
    )
    playground.add_samples(PICTURE)
    (card,) = playground.caption()
    timings = {"Queue": "1.3 ms", "Compute": "1.23 s", "Cache": "hit", "Image fetch": "12 ms"}
    assert timings.items() <= card["timings"].items() and "Odd" not in card["timings"]


def test_removing_a_card_moves_the_focus_to_the_next(playground: Playground) -> None:
    playground.add_samples(*PICTURES)
    playground.click(".card:nth-child(2) [data-do=remove]")
    assert [card["name"] for card in playground.cards()] == [PICTURES[0], PICTURES[2]]
    focused = "document.activeElement.closest('.card').querySelector('h3').textContent"
    assert playground.run(focused) == PICTURES[2]
    playground.click("#clear")
    assert playground.run("document.activeElement.id") == "pick"

"""Forms: what is read of them, what goes on, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from node.api.form import is_form, read_form
from shared_state.errors import RequestError

KIND = b"multipart/form-data; boundary=xyz"
FILE = (b'form-data; name="file"; filename="a.wav"', b"RIFF\r\n--xy\r\n")
MODEL = (b'form-data; name="model"', b"chat")


def form(*parts: tuple[bytes, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    return b"".join(b"--xyz\r\ncontent-disposition: %b\r\n\r\n%b\r\n" % part for part in parts) + end


def field(name: str, value: str) -> tuple[bytes, bytes]:
    return b'form-data; name="%b"' % name.encode(), value.encode()


def test_texts_become_fields() -> None:
    """In the types that they have in JSON, where these are looked at; a name in brackets is a list."""
    fields, read = read_form(
        KIND,
        form(
            MODEL,
            FILE,
            field("stream", "true"),
            field("n", "2"),
            field("temperature", "0"),
            field("a[]", "x"),
            field("a[]", "y"),
        ),
    )

    assert fields == {"model": "chat", "stream": True, "n": 2, "temperature": "0", "a[]": ["x", "y"]}
    assert [(u.name, u.size_bytes, u.is_image) for u in read.uploads] == [("file", 12, False)]


def test_a_form_goes_on_with_another_name_in_it() -> None:
    """Everything else is as it came, the parts' own headers included."""
    part = (
        b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nX-Odd: 1\r\n\r\n\x00\xff\r\n'
    )
    _, read = read_form(KIND, part + form(MODEL))

    assert read.body("m-1", boundary=b"B") == (
        b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\nx-odd: 1\r\n\r\n\x00\xff\r\n'
        b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nm-1\r\n--B--\r\n'
    )
    assert read.boundary in read.body("m-1")
    assert read_form(KIND, form(MODEL))[1].boundary != read.boundary


def test_a_form_without_a_model_means_the_default() -> None:
    """A file of that name is none."""
    fields, read = read_form(KIND, form((b'form-data; name="model"; filename="m"', b"x")), default_model="d")

    assert fields == {"model": "d"}
    assert read.body("up", boundary=b"B").startswith(
        b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nup\r\n'
    )


def test_files_have_weights() -> None:
    """An image whatever its size, sound by its length."""
    image = (b'form-data; name="image[]"; filename="i"', b"x" * 9)
    sound = (b'form-data; name="file"; filename="s"', b"x" * 1000)

    assert read_form(KIND, form(MODEL, image, image))[1].tokens == 4000
    assert read_form(KIND, form(MODEL, sound))[1].tokens == 4


def test_random_bytes_come_through() -> None:
    """Whatever a file holds."""
    draw = random.Random(7)
    for _ in range(200):
        content = bytes(draw.choices(b"\r\n-xyz\x00", k=draw.randrange(60)))
        if b"\r\n--xyz" in b"\r\n" + content:
            continue
        _, read = read_form(KIND, form(MODEL, (FILE[0], content)))
        assert read.parts[1].content == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        form(MODEL)[:-8],
        form(MODEL, end=b""),
        b"--xyz\r\n\r\nx\r\n--xyz--",
        form((b"form-data", b"x")),
        form((b'attachment; name="a"', b"x")),
        form((b'form-data; name="a"\r\ncontent-disposition: form-data; name="model"', b"x")),
        form((b'form-data; name="a"\ncontent-disposition: form-data; name="model"', b"x")),
        form((b'form-data; name="a"\r\nb: ' + b"x" * 5000, b"x")),
        form(*[field(f"f{n}", "x") for n in range(101)]),
        form(field("model", "a"), field("model", "b")),
        form(field("stream", "true"), field("stream", "false")),
        form((b'form-data; name="prompt"', b"\xff\xfe")),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(body: bytes) -> None:
    """Or not at all."""
    with pytest.raises(RequestError):
        read_form(KIND, body)


@pytest.mark.parametrize("kind", [b"multipart/form-data", b"multipart/form-data; boundary=" + b"x" * 300])
def test_a_form_has_a_boundary(kind: bytes) -> None:
    """Of a length that is allowed."""
    with pytest.raises(RequestError):
        read_form(kind, form(MODEL))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(KIND, True), (b"Multipart/Form-Data;boundary=a", True), (b"application/json", False), (None, False)],
)
def test_a_form_says_so(kind: Any, expected: bool) -> None:
    """By its content-type."""
    assert is_form(kind) is expected

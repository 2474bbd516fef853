from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from relevo import Subject, SubjectType, SubjectTypes
from relevo.errors import SubjectError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@attrs.frozen
class Image:
    id: int | None


class Photograph(Image):
    pass


IMAGE = SubjectType(
    type="image",
    cls=Image,
    name=lambda image: None if image.id is None else str(image.id),
    load={"7": Image(7)}.get,
)


@given(texts, texts)
@example("a/b", "c/d")
@example("%2F", "% /?#")
@example("bild", "ä𝄞\0")
def test_a_subject_survives_being_text(kind: str, name: str) -> None:
    subject = Subject(kind, name)

    text = str(subject)

    assert Subject.parsed(text) == subject
    assert text.isascii()
    assert text.count("/") == 1
    assert not set(text) & set(" ?#\0")


@pytest.mark.parametrize("text", ["", "/", "image", "image/", "/7", "a/b/c", "image/%FF", "%ff/7"])
def test_other_text_is_no_subject(text: str) -> None:
    assert Subject.parsed(text) is None


@pytest.mark.parametrize("parts", [("image", 7), ("image", ""), ("", "7"), (None, "7"), (b"image", "7")])
def test_type_and_id_are_text(parts: tuple[Any, Any]) -> None:
    with pytest.raises(SubjectError, match="of a subject: expected text; got"):
        Subject(*parts)


def test_an_instance_is_named_by_its_type() -> None:
    types = SubjectTypes([IMAGE])

    assert types.named(Image(7)) == Subject("image", "7")
    assert types.named(Photograph(8)) == Subject("image", "8")
    assert types.named(Subject("other", "9")) == Subject("other", "9")
    assert types.named(Image(None)) is None


def test_the_most_derived_type_names() -> None:
    types = SubjectTypes([IMAGE])
    types.add(SubjectType(type="photo", cls=Photograph, name=lambda photo: f"p{photo.id}", load=lambda _: None))

    assert types.named(Photograph(8)) == Subject("photo", "p8")
    assert types.named(Image(8)) == Subject("image", "8")


def test_an_instance_of_no_type_is_told_what_to_do() -> None:
    with pytest.raises(SubjectError, match=r"str is not registered as a subject; register it with app.add_subject"):
        SubjectTypes([IMAGE]).named("image/7")


@pytest.mark.parametrize(
    "name, why",
    [
        (lambda _: "None", 'returned the text "None"'),
        (lambda _: 7, "expected text, or None while there is no id; got 7"),
        (lambda _: "", "text"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name: Any, why: str) -> None:
    types = SubjectTypes([SubjectType(type="image", cls=Image, name=name, load=lambda _: None)])

    with pytest.raises(SubjectError, match=why):
        types.named(Image(7))


@pytest.mark.parametrize("wrong", [7, "", b"7"], ids=["number", "empty", "bytes"])
def test_a_name_of_another_type_is_refused_with_the_place_of_its_function(wrong: Any) -> None:
    types = SubjectTypes([SubjectType(type="image", cls=Image, name=lambda _: wrong, load=lambda _: None)])

    with pytest.raises(SubjectError) as caught:
        types.named(Image(7))

    text = str(caught.value)
    assert re.search(r'the name= of the subject type "image" \(.*test_subject\.py:\d+\): expected text, or None', text)
    assert f"got {wrong!r}; convert it" in text


def test_a_subject_is_loaded_by_its_type() -> None:
    types = SubjectTypes([IMAGE])

    assert types.load(Subject("image", "7")) == Image(7)
    assert types.load(Subject("image", "8")) is None
    with pytest.raises(SubjectError, match=r'no subject type "images".*did you mean "image"'):
        types.load(Subject("images", "7"))


def test_registering_a_type_again_is_fine_but_another_one_is_not() -> None:
    types = SubjectTypes([IMAGE, IMAGE])
    other_class = attrs.evolve(IMAGE, cls=Photograph)
    other_type = attrs.evolve(IMAGE, type="picture")

    for clash in (other_class, other_type):
        with pytest.raises(SubjectError, match="clashes with"):
            types.add(clash)

    assert types.named(Photograph(1)) == Subject("image", "1"), "what was refused left something behind"


def test_a_type_is_found_by_its_earlier_names() -> None:
    types = SubjectTypes([attrs.evolve(IMAGE, aliases=["images", "picture"])])

    assert types.load(Subject("images", "7")) == types.load(Subject("picture", "7")) == Image(7)
    assert types.named(Image(7)) == Subject("image", "7")
    assert list(types) == ["image"]


def test_what_an_earlier_name_loaded_is_released() -> None:
    released: list[Any] = []
    types = SubjectTypes([attrs.evolve(IMAGE, aliases="images", release=released.append)])

    types.release(Subject("images", "7"), Image(7))

    assert released == [Image(7)]


@pytest.mark.parametrize(
    "kind, aliases, name",
    [("images", (), "images"), ("photo", ("image",), "image"), ("photo", ("images",), "images")],
)
def test_a_name_with_two_classes_is_refused(kind: str, aliases: tuple[str, ...], name: str) -> None:
    types = SubjectTypes([attrs.evolve(IMAGE, aliases=["images"])])
    other = SubjectType(type=kind, cls=Photograph, name=lambda _: "1", load=lambda _: None, aliases=aliases)

    with pytest.raises(SubjectError, match=f'"{kind}" of Photograph clashes with "image" of Image.*"{name}/…"'):
        types.add(other)

    assert types.load(Subject("images", "7")) == Image(7)
    assert types.named(Photograph(7)) == Subject("image", "7"), "what was refused left something behind"


def test_the_aliases_of_a_type_that_is_defined_again_replace_the_former() -> None:
    def again(*aliases: str) -> SubjectType:
        return SubjectType(type="image", cls=Image, name=str, load=load_image, aliases=aliases)

    types = SubjectTypes([again("a", "b"), again("b", "c")])

    assert types.load(Subject("b", "7")) == types.load(Subject("c", "7")) == Image(7)
    with pytest.raises(SubjectError, match='no subject type "a"'):
        types.load(Subject("a", "7"))


def load_image(name: str) -> Image:
    return Image(int(name))

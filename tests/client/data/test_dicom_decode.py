"""Every encoding gives the same pixels; every broken file gives its code."""

from __future__ import annotations

import gzip
import io
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from client.data import dicom_decode, dicom_header
from client.data.codes import Rejected
from client.data.dicom import read_picture
from client.data.dicom_header import read_header
from tests.support.dicom_files import LOSSLESS

DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
J2K = "1.2.840.10008.1.2.4.90"
JPEG_LL = "1.2.840.10008.1.2.4.70"

ENCAPSULATED = {RLE, J2K, JPEG_LL, "1.2.840.10008.1.2.4.80"}
ENCODINGS = {
    "1.2.840.10008.1.2": "pydicom",
    "1.2.840.10008.1.2.1": "pydicom",
    "1.2.840.10008.1.2.2": "pydicom",
    DEFLATED: "pydicom",
    RLE: "pylibjpeg-rle",
    JPEG_LL: "dicomsdl",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    J2K: "python-gdcm",
}


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_lossless_encodings_decode_to_the_same_pixels(
    dicom: ModuleType, syntax: str
) -> None:
    pixels = dicom.phantom(96, 80)
    picture = read_picture(dicom.encoded(dicom.dataset(pixels), syntax))
    np.testing.assert_array_equal(picture.image, pixels / np.float32(4095))
    assert picture.decoder == ENCODINGS[syntax]
    assert picture.spacing == (0.07, 0.08)


@pytest.mark.parametrize(
    ("syntax", "decoder"),
    [
        (syntax, decoder)
        for syntax in LOSSLESS
        for decoder in dicom_decode._DECODERS.get(syntax, ())
    ],
)
def test_all_decoders_of_a_lossless_encoding_agree_and_refuse_a_cut_stream(
    dicom: ModuleType, monkeypatch: pytest.MonkeyPatch, syntax: str, decoder: str
) -> None:
    monkeypatch.setitem(dicom_decode._DECODERS, syntax, (decoder,))
    pixels = dicom.phantom(96, 80)
    content = dicom.encoded(dicom.dataset(pixels), syntax)
    picture = read_picture(content)
    np.testing.assert_array_equal(picture.image, pixels / np.float32(4095))
    assert picture.decoder == decoder
    whole = dcmread(io.BytesIO(content))
    frame = next(generate_frames(whole.PixelData, number_of_frames=1))
    for share in (0.9, 0.5, 0.2):
        whole.PixelData = encapsulate([frame[: int(share * len(frame))]])
        assert _code(dicom.to_bytes(whole)) == ("Q_CODESTREAM", "decode")


def test_every_lossless_encoding_that_is_compressed_has_a_second_decoder() -> None:
    orders = [dicom_decode._DECODERS[s] for s in LOSSLESS if s in ENCAPSULATED]
    assert len(orders) == 4 and all(len(order) > 1 for order in orders)


def test_gdcm_reads_what_dicomsdl_cannot(
    dicom: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = dicom.phantom(96, 80)
    content = dicom.encoded(dicom.dataset(pixels), JPEG_LL)

    def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(dicom_decode, "_dicomsdl", fail)
    picture = read_picture(content)
    np.testing.assert_array_equal(picture.image, pixels / np.float32(4095))
    assert picture.decoder == "python-gdcm"


def test_a_jpeg_smaller_than_its_header_never_shows_old_memory(
    dicom: ModuleType,
) -> None:
    whole = dicom.encoded(dicom.dataset(dicom.phantom(96, 80)), JPEG_LL)
    ds = dcmread(io.BytesIO(whole))
    ds.Rows = 192
    assert _code(dicom.to_bytes(ds)) == ("Q_CODESTREAM", "decode")


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_jpeg_streams_that_were_cut_off_are_never_filled_up(
    dicom: ModuleType, share: float
) -> None:
    whole = dicom.encoded(dicom.dataset(dicom.phantom(96, 80)), JPEG_LL)
    ds = dcmread(io.BytesIO(whole))
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: int(len(frame) * share)]])
    assert _code(dicom.to_bytes(ds)) == ("Q_CODESTREAM", "decode")


def _code(content: bytes) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        read_header(content)
        read_picture(content)
    return caught.value.code, caught.value.stage


def test_no_preamble_is_no_dicom(dicom: ModuleType) -> None:
    assert _code(dicom.image()[132:]) == ("Q_NOT_DICOM", "read")


def test_empty_and_packed_files_have_their_codes(dicom: ModuleType) -> None:
    assert _code(b"") == ("Q_EMPTY", "read")
    assert _code(gzip.compress(dicom.image())) == ("Q_CONTAINER", "read")
    assert _code(b"PK\x03\x04 and so on") == ("Q_CONTAINER", "read")


def test_file_without_transfer_syntax(dicom: ModuleType) -> None:
    content = dicom.image()
    at = content.index(b"\x02\x00\x10\x00UI")
    length = 8 + int.from_bytes(content[at + 6 : at + 8], "little")
    group = int.from_bytes(content[140:144], "little") - length
    cut = content[:at] + content[at + length :]
    cut = cut[:140] + group.to_bytes(4, "little") + cut[144:]
    assert _code(cut) == ("Q_NO_SYNTAX", "read")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", J2K, RLE])
def test_truncated_pixels_are_never_filled_up(dicom: ModuleType, syntax: str) -> None:
    content = dicom.encoded(dicom.dataset(), syntax)
    assert _code(content[:-2000])[0] == "Q_TRUNCATED"


def test_surplus_pixels_are_ignored_with_a_remark(dicom: ModuleType) -> None:
    ds = dicom.dataset()
    ds.PixelData += bytes(10)
    assert read_picture(dicom.to_bytes(ds)).remarks == ("W_PADDED",)


@pytest.mark.parametrize(("rows", "columns"), [(60000, 60000), (65535, 2100)])
def test_absurd_size_is_refused_before_decoding(
    dicom: ModuleType, rows: int, columns: int
) -> None:
    assert _code(dicom.image(Rows=rows, Columns=columns)) == ("Q_TOO_LARGE", "decode")


def test_deflate_bomb_is_refused(
    dicom: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = dicom.encoded(dicom.dataset(np.zeros((500, 500), np.uint16)), DEFLATED)
    monkeypatch.setattr(dicom_header, "MAX_INFLATED_BYTES", 400_000)
    assert _code(content) == ("Q_TOO_LARGE", "read")


def test_unsupported_syntax(dicom: ModuleType) -> None:
    content = dicom.encoded(dicom.dataset(), J2K)
    other = content.replace(J2K.encode(), b"1.2.840.10008.1.2.4.53")
    assert _code(other) == ("Q_SYNTAX", "decode")


@pytest.mark.parametrize("syntax", ENCODINGS)
def test_a_volume_is_read_by_frame_or_as_its_maximum(
    dicom: ModuleType, syntax: str
) -> None:
    frames = dicom.stack(5, 96, 80)
    content = dicom.encoded(dicom.volume(frames), syntax)
    shown = (frames / 4095).astype(np.float32)
    for number in (0, 3, 4):
        one = read_picture(content, frames=(number, number + 1))
        np.testing.assert_array_equal(one.image, shown[number])
    slab = read_picture(content, frames=(0, 5))
    np.testing.assert_array_equal(slab.image, shown.max(axis=0))
    assert (slab.voi, slab.spacing, slab.remarks) == ("range", (0.07, 0.08), ())
    assert slab.decoder == {JPEG_LL: "python-gdcm"}.get(syntax, ENCODINGS[syntax])


def test_the_maximum_of_a_volume_is_the_brightest_as_shown(dicom: ModuleType) -> None:
    frames = dicom.stack(3)
    ds = dicom.volume(frames, PhotometricInterpretation="MONOCHROME1")
    slab = read_picture(dicom.to_bytes(ds), frames=(0, 3))
    shown = (1.0 - frames / 4095).astype(np.float32)
    np.testing.assert_array_equal(slab.image, shown.max(axis=0))


def test_a_blank_slice_is_no_blank_volume(dicom: ModuleType) -> None:
    frames = dicom.stack(3)
    frames[1] = 7
    content = dicom.to_bytes(dicom.volume(frames))
    slab = read_picture(content, frames=(0, 3))
    np.testing.assert_array_equal(slab.image, frames.max(axis=0) / np.float32(4095))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", J2K])
@pytest.mark.parametrize("frames", [None, (0, 6), (5, 6)])
def test_frames_that_are_not_declared_are_never_read(
    dicom: ModuleType, syntax: str, frames: tuple[int, int] | None
) -> None:
    content = dicom.encoded(dicom.volume(dicom.stack(5)), syntax)
    with pytest.raises(Rejected, match="Q_FRAMES at decode"):
        read_picture(content, frames=frames)


def test_a_volume_with_too_few_frames_is_never_filled_up(dicom: ModuleType) -> None:
    whole = dicom.to_bytes(dicom.volume(dicom.stack(5)))
    ds = dcmread(io.BytesIO(whole))
    ds.PixelData = ds.PixelData[: -64 * 48 * 2]
    with pytest.raises(Rejected, match="Q_TRUNCATED"):
        read_picture(dicom.to_bytes(ds), frames=(0, 1))
    ds = dcmread(io.BytesIO(dicom.encoded(dicom.volume(dicom.stack(5)), J2K)))
    streams = list(generate_frames(ds.PixelData, number_of_frames=5))
    for has_offsets in (True, False):
        ds.PixelData = encapsulate(streams[:4], has_bot=has_offsets)
        with pytest.raises(Rejected, match="Q_FRAMES"):
            read_picture(dicom.to_bytes(ds), frames=(0, 1))


def test_a_volume_of_absurd_size_is_refused_before_decoding(
    dicom: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = dicom.to_bytes(dicom.volume(dicom.stack(5)))
    monkeypatch.setattr(dicom_decode, "MAX_VOLUME_PIXELS", 4 * 64 * 48)
    with pytest.raises(Rejected, match="Q_TOO_LARGE at decode"):
        read_picture(content, frames=(0, 1))


def test_corrupt_codestream(dicom: ModuleType) -> None:
    content = bytearray(dicom.encoded(dicom.dataset(), J2K))
    start = content.index(b"\xff\x4f\xff\x51")
    content[start + 4 : start + 60] = bytes(56)
    assert _code(bytes(content)) == ("Q_CODESTREAM", "decode")


def test_codestream_of_another_size_than_the_header(dicom: ModuleType) -> None:
    ds = dicom.dataset()
    content = dicom.encoded(ds, J2K)
    rows = content.index(b"\x28\x00\x10\x00US") + 8
    other = content[:rows] + (60).to_bytes(2, "little") + content[rows + 2 :]
    assert _code(other)[0] == "Q_CODESTREAM"


def test_frames_that_contradict_each_other(dicom: ModuleType) -> None:
    frames = [Dataset(), Dataset()]
    content = dicom.image(PerFrameFunctionalGroupsSequence=frames)
    assert _code(content) == ("Q_FRAMES", "decode")


def test_blank_image(dicom: ModuleType) -> None:
    assert _code(dicom.image(np.full((9, 9), 7, np.uint16))) == ("Q_BLANK", "decode")


def test_garbage_after_the_meta_information(dicom: ModuleType) -> None:
    content = dicom.image()
    noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    assert _code(content[:start] + noise)[0] in (
        "Q_STRUCTURE",
        "Q_HEADER",
        "Q_TRUNCATED",
    )


def test_bad_value_counts_as_absent_with_a_remark(dicom: ModuleType) -> None:
    ds = dicom.dataset()
    ds.WindowCenter, ds.WindowWidth = "2000", "1500"
    content = dicom.to_bytes(ds).replace(b"2000", b"2o00")
    header = read_header(content)
    assert header.numbers["WindowCenter"] == [] and "W_VALUE" in header.remarks
    assert read_picture(content).voi == "range"


@pytest.mark.parametrize("element", ["PatientID", "SeriesDescription"])
def test_nested_elements_never_replace_top_level_ones(
    dicom: ModuleType, element: str
) -> None:
    nested = Dataset()
    setattr(nested, element, "NESTED")
    nested.Rows, nested.WindowCenter = 1, 3
    header = read_header(
        dicom.image(RequestAttributesSequence=[nested], **{element: "TOP"})
    )
    assert header.text(element) == "TOP" and header.integer("Rows", 0) == 64


def test_exceptions_and_warnings_hold_no_value(
    dicom: ModuleType,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    canary = "CANARY^JANE"
    elements: dict[str, Any] = {
        "PatientID": canary,
        "PatientName": canary,
        "SpecificCharacterSet": canary,
        "StudyInstanceUID": canary,
        "PatientAge": canary,
    }
    content = dicom.image(**elements)
    caplog.clear()
    recwarn.clear()
    assert "W_CHARSET" in read_picture(content).remarks
    with pytest.raises(Rejected) as caught:
        read_picture(content[:-3000])
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    texts = [str(caught.value), caplog.text, *[str(item.message) for item in recwarn]]
    assert not any("CANARY" in text for text in texts)

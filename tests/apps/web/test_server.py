"""The service over HTTP: the library's own numbers, one line for what is wrong, and nothing for strangers."""

from __future__ import annotations

import base64
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import typer
from PIL import Image
from starlette.testclient import TestClient

from conftest import make_patches
from sentinode import Classifier
from sentinode.apps.on_web import serve
from sentinode.apps.web.gate import HEADERS, is_loopback
from sentinode.apps.web.server import application, bound
from sentinode.apps.web.service import Service, ShownMaps
from sentinode.apps.web.uploads import Limits
from sentinode.data.images import encode_tiff, patch_id
from sentinode.errors import ConfigError, FailureError
from sentinode.inference.attribution import ExplainedLogit
from sentinode.runs.load import digest_of_model

PATCHES = make_patches(8, seed=5).pixels
LOOPBACK = "http://127.0.0.1:8800"
TOKEN = "correct-horse-battery-staple"


def service_of(classifier: Classifier, *, digest: str = "0" * 64, limits: Limits | None = None) -> Service:
    maps = ShownMaps("occlusion", ExplainedLogit.of(classifier), 0.5)
    return Service(classifier, digest, maps=maps, limits=limits or Limits())


@pytest.fixture(scope="module")
def client(classifier: Classifier, served: Path) -> Iterator[TestClient]:
    app = application(service_of(classifier, digest=digest_of_model(served)))
    with TestClient(app, base_url=LOOPBACK, raise_server_exceptions=False) as client:
        yield client


def encoded(patch: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, kind, **options)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def parts(*contents: bytes, name: str = "patch") -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{name}{number}", content)) for number, content in enumerate(contents)]


def require_problem(answer: Any, status: int | None = None) -> str:
    """That an answer is problem details in one line; what it says."""
    assert 400 <= answer.status_code < 500 if status is None else answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert set(said) == {"type", "title", "status", "detail"}
    assert said["status"] == answer.status_code
    assert said["title"] != "Error"
    assert said["detail"].isprintable()
    assert len(said["detail"]) < 700
    return str(said["detail"])


def test_images_of_every_format_get_what_the_library_says(client: TestClient, classifier: Classifier) -> None:
    kinds = [encode_tiff(PATCHES[0]), encoded(PATCHES[1], "PNG"), encoded(PATCHES[2], "TIFF", compression="tiff_lzw"),
             encoded(PATCHES[3], "WEBP", lossless=True)]  # fmt: skip
    answer = client.post("/v1/predict", files=parts(*kinds))
    assert answer.status_code == 200, answer.text
    said, expected = answer.json(), classifier(PATCHES[:4])
    point = classifier.operating_point("youden")
    assert [patch["probability"] for patch in said["patches"]] == expected.tolist()  # to the last bit
    assert [patch["tumour"] for patch in said["patches"]] == (expected > point.threshold).tolist()
    assert [patch["id"] for patch in said["patches"]] == [patch_id(patch) for patch in PATCHES[:4]]
    calibrated = classifier.calibration("temperature").apply(expected)
    assert [patch["calibrated_probability"] for patch in said["patches"]] == pytest.approx(calibrated, rel=1e-15)
    assert said["threshold"] == point.threshold
    assert said["operating_point"] == point.rule
    assert said["model_sha256"] == client.get("/v1/model").json()["model_sha256"]
    assert all(patch["disagreement"] is None for patch in said["patches"])
    jpeg = encoded(PATCHES[4], "JPEG")
    seen = np.asarray(Image.open(io.BytesIO(jpeg)))
    (patch,) = client.post("/v1/predict", files=parts(jpeg)).json()["patches"]
    assert patch["probability"] == classifier(seen[None])[0]


def test_an_array_gets_the_same(client: TestClient, classifier: Classifier) -> None:
    said = client.post(
        "/v1/predict?threshold=0.25&calibration=isotonic",
        content=npy(PATCHES),
        headers={"content-type": "application/x-npy"},
    ).json()
    assert [patch["probability"] for patch in said["patches"]] == classifier(PATCHES).tolist()
    assert said["threshold"] == 0.25
    assert said["calibration"] == "isotonic"
    assert said["operating_point"] == "as given"


def test_the_guard_says_what_is_unlike_lymph_node(client: TestClient) -> None:
    flat = np.full((96, 96, 3), 128, np.uint8)
    (patch,) = client.post("/v1/predict", files=parts(encoded(flat, "PNG"))).json()["patches"]
    assert any(reason.startswith("unlike") for reason in patch["reasons"])


def test_other_sizes_are_refused_unless_their_spacing_is_given(client: TestClient) -> None:
    large = encoded(np.tile(PATCHES[0], (3, 3, 1)), "PNG")
    assert "288 x 288 pixels, not 96 x 96" in require_problem(client.post("/v1/predict", files=parts(large)), 422)
    assert client.post("/v1/predict?spacing=0.5", files=parts(large)).status_code == 200
    assert "spacing" in require_problem(client.post("/v1/predict?spacing=-1", files=parts(large)), 422)
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (2**30).to_bytes(4) * 2 + b"\x08\x02\0\0\0" + b"\0" * 4
    require_problem(client.post("/v1/predict?spacing=0.5", files=parts(bomb)), 422)


def test_the_model_describes_itself(client: TestClient, served: Path, classifier: Classifier) -> None:
    said = client.get("/v1/model").json()
    assert said["model_sha256"] == digest_of_model(served)
    assert set(said["operating_points"]) == set(classifier.operating_points)
    assert said["scores"]["auc"]["estimate"] == classifier.card().scores["auc"].estimate
    assert "not a medical device" in said["research_use"]


def test_the_map_is_the_librarys(client: TestClient, classifier: Classifier) -> None:
    said = client.post("/v1/explain", files=parts(encoded(PATCHES[0], "PNG"))).json()
    found = np.frombuffer(base64.b64decode(said["map"]), "<f4").reshape(96, 96)
    np.testing.assert_array_equal(found, classifier.explain(PATCHES[:1], "occlusion").maps[0])
    two = parts(*[encoded(patch, "PNG") for patch in PATCHES[:2]])
    assert "one at a time" in require_problem(client.post("/v1/explain", files=two), 422)


def test_maps_that_passed_no_exam_are_not_shown(classifier: Classifier) -> None:
    service = Service(classifier, "", maps="no method's maps passed their exam on this model", limits=Limits())
    with TestClient(application(service), base_url=LOOPBACK) as client:
        answer = client.post("/v1/explain", files=parts(encoded(PATCHES[0], "PNG")))
        assert "passed their exam" in require_problem(answer, 409)
        assert client.get("/v1/model").json()["maps"] is None


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "says"),
    [
        ("/v1/predict", b"", None, 415, "Content-Type"),
        ("/v1/predict", b"x", "text/plain", 415, "text/plain"),
        ("/v1/predict", b"x", "multipart/form-data", 400, "boundary"),
        ("/v1/predict", b"--a--\r\n", "multipart/form-data; boundary=a", 422, "holds no file"),
        ("/v1/predict", b"x" * 200, "application/x-npy", 422, "header"),
        ("/v1/predict", npy(PATCHES)[:-1], "application/x-npy", 422, "promises"),
        ("/v1/predict", npy(PATCHES.astype(np.float32)), "application/x-npy", 422, "float32"),
        ("/v1/predict", npy(PATCHES[0]), "application/x-npy", 422, "(96, 96, 3)"),
        ("/v1/predict", npy(np.asfortranarray(PATCHES)), "application/x-npy", 422, "C-ordered"),
        ("/v1/predict?threshold=best", npy(PATCHES), "application/x-npy", 422, "youden"),
        ("/v1/predict?threshold=2", npy(PATCHES), "application/x-npy", 422, "not a probability"),
        ("/v1/predict?threshold=nan", npy(PATCHES), "application/x-npy", 422, "not a probability"),
        ("/v1/predict?calibration=best", npy(PATCHES), "application/x-npy", 422, "calibration"),
        ("/v1/nothing", b"", None, 404, "openapi"),
        ("/v1/model", b"", None, 405, "method"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    client: TestClient, path: str, body: bytes, kind: str | None, status: int, says: str
) -> None:
    answer = client.post(path, content=body, headers={"content-type": kind} if kind else {})
    assert says in require_problem(answer, status)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the command silences its decoders
def test_malformed_uploads_are_never_the_services_fault_and_memory_stays_flat(client: TestClient) -> None:
    rng, process = np.random.default_rng(19), psutil.Process()
    whole = [encode_tiff(PATCHES[0]), *(encoded(PATCHES[0], kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP")),
             encoded(PATCHES[0], "TIFF", compression="jpeg")]  # fmt: skip
    statuses, held = set(), 0
    for number in range(500):
        if number == 150:  # once all decoders were asked
            held = process.memory_info().rss
        content = bytearray(npy(PATCHES[:1]) if number % 10 == 9 else whole[number % len(whole)])
        for at in rng.integers(0, min(len(content), (40, 400, len(content))[number % 3]), 1 + number % 7):
            content[at] = rng.integers(256)
        if number % 4 == 0:
            del content[rng.integers(len(content)) :]
        if number % 10 == 9:
            answer = client.post("/v1/predict", content=bytes(content), headers={"content-type": "application/x-npy"})
        elif number % 10 == 8:
            body = bytearray(b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + content)
            body[rng.integers(60)] = rng.integers(256)
            kind = "multipart/form-data; boundary=b"
            answer = client.post("/v1/predict", content=bytes(body), headers={"content-type": kind})
        else:
            answer = client.post("/v1/predict", files=parts(bytes(content)))
        statuses.add(answer.status_code)
        if answer.status_code != 200:  # a changed pixel is another patch
            require_problem(answer)
    assert statuses <= {200, 400, 422}
    assert 422 in statuses
    assert process.memory_info().rss - held < 8 * 2**20
    assert client.get("/readyz").text == "ready\n"


def test_bodies_are_bounded_before_they_are_read(classifier: Classifier) -> None:
    limits = Limits(body_bytes=60_000, files=2)
    with TestClient(application(service_of(classifier, limits=limits)), base_url=LOOPBACK) as client:
        kind = {"content-type": "application/x-npy"}
        assert "MiB" in require_problem(client.post("/v1/predict", content=npy(PATCHES), headers=kind), 413)
        unannounced = client.post("/v1/predict", content=iter([b"x" * 40_000] * 2), headers=kind)
        require_problem(unannounced, 413)
        three = parts(*[encoded(np.full((96, 96, 3), n, np.uint8), "PNG") for n in range(3)])
        assert "at most 2 files" in require_problem(client.post("/v1/predict", files=three), 400)


def test_names_are_data_and_stay_in_one_line(client: TestClient) -> None:
    answer = client.post("/v1/predict", files={"files": ("../<script>a\u202eb", b"nothing")})
    assert require_problem(answer, 422).startswith("<script>a\\u202eb: is not an image")  # in JSON, which is no markup


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
         "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ],
)  # fmt: skip
def test_each_header_is_on_answers_of_every_kind(
    client: TestClient, classifier: Classifier, header: str, value: str
) -> None:
    locked = TestClient(application(service_of(classifier), token=TOKEN), base_url=LOOPBACK)
    kinds = {
        200: client.get("/"),
        401: locked.get("/v1/model"),
        403: client.get("/v1/model", headers={"origin": "https://evil.example"}),
        404: client.get("/no"),
        405: client.delete("/v1/model"),
        413: client.post("/v1/predict", content=b"", headers={"content-length": "99999999999"}),
        415: client.post("/v1/predict"),
        421: client.get("/", headers={"host": "evil.example"}),
        422: client.post(
            "/v1/predict?threshold=2", content=npy(PATCHES), headers={"content-type": "application/x-npy"}
        ),
    }
    assert {status: answer.status_code for status, answer in kinds.items()} == {status: status for status in kinds}
    assert {answer.headers[header] for answer in kinds.values()} == {value}
    assert len(HEADERS) == 7


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/model", "/no", "/v1/predict"]
)
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "set-cookie" not in headers
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8800", 200), ("localhost", 200), ("[::1]:8800", 200), ("192.168.0.7:8800", 200), ("lab-pc:8800", 200),
     ("evil.example", 421), ("localhost.evil.example", 421), ("", 421), ("[", 421)],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(classifier: Classifier, host: str, status: int) -> None:
    client = TestClient(application(service_of(classifier), names=["lab-pc"]), base_url=LOOPBACK)
    answer = client.get("/healthz", headers={"host": host})
    assert answer.status_code == status
    if status != 200:
        require_problem(answer, 421)


def test_pages_of_other_sites_are_not_answered(client: TestClient) -> None:
    assert client.get("/v1/model", headers={"origin": LOOPBACK}).status_code == 200
    for origin in ("https://evil.example", "http://127.0.0.1:9999", "null"):
        require_problem(client.get("/v1/model", headers={"origin": origin}), 403)


def test_without_the_token_there_is_nothing_but_health(classifier: Classifier) -> None:
    with TestClient(application(service_of(classifier), token=TOKEN), base_url=LOOPBACK) as client:
        assert client.get("/healthz").status_code == 200
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
                      {"authorization": "Bearer é".encode("latin-1")}):  # fmt: skip
            for path in ("/v1/model", "/metrics"):
                answer = client.get(path, headers=given)
                require_problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/model", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_what_is_counted_is_told_to_prometheus(classifier: Classifier) -> None:
    with TestClient(application(service_of(classifier)), base_url=LOOPBACK) as client:
        client.post("/v1/predict", content=npy(PATCHES[:3]), headers={"content-type": "application/x-npy"})
        client.get("/no/such/path")
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert lines['sentinode_requests_total{route="/v1/predict",status="200"}'] == "1"
    assert lines['sentinode_requests_total{route="other",status="404"}'] == "1"
    assert lines['sentinode_request_seconds_bucket{route="/v1/predict",le="+Inf"}'] == "1"
    assert lines["sentinode_patches_total"] == "4"  # with the one that is asked at the start
    assert lines["sentinode_ready"] == "1"
    assert lines["sentinode_heat_maps_waiting"] == lines["sentinode_slides_sent"] == "0"


def test_the_document_names_every_route_and_its_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics"} <= set(document["paths"])
    predict = document["paths"]["/v1/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/x-npy"}
    assert predict["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Judged")
    assert predict["responses"]["4XX"]["content"].keys() == {"application/problem+json"}


def test_a_bug_says_nothing_of_the_inside(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(classifier)
    monkeypatch.setattr(service, "judge", lambda *_: 1 / 0)
    with TestClient(application(service), base_url=LOOPBACK, raise_server_exceptions=False) as client:
        answer = client.post("/v1/predict", content=npy(PATCHES), headers={"content-type": "application/x-npy"})
    assert "ZeroDivision" not in require_problem(answer, 500)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_the_loopback_is() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.7", "", "localhost.example"]))


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_page_is_served_from_the_package_and_holds_no_script_of_its_own(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "not a medical device" in page.text
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page.text)
    wanted, seen = re.findall(r'(?:src|href)="([^"#]+)"', page.text), set[str]()
    while wanted:
        name = wanted.pop()
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name  # nothing of another site
        seen.add(name)
        if name.endswith((".js", ".css")) and "openseadragon" not in name:
            assert not re.search("innerHTML|https?:", answer.text), name
        if name.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript"), name
            wanted += set(re.findall(r'from "\./([^"]+)"', answer.text)) - seen
    assert {"page.css", "icon.svg"} <= seen
    require_problem(client.get("/..%2fserver.py"), 404)


def test_the_command_wants_a_token_before_other_machines_can_ask(served: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: other machines could reach .*--token-file"):
        serve(served, host="0.0.0.0")
    short = tmp_path / "token"
    short.write_text("secret\n")
    with pytest.raises(ConfigError, match="holds no token of 16"):
        serve(served, token_file=short)


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with bound("127.0.0.1", 0) as taken, pytest.raises(FailureError, match="cannot listen"):
        bound("127.0.0.1", taken.getsockname()[1])


def test_the_demo_ends_with_the_command_that_opens_its_page() -> None:
    """Its options are known, and each folder that it names is one that the demo has written."""
    recipe = (Path(__file__).parents[3] / "Makefile").read_text(encoding="utf-8")
    lines = recipe[recipe.index("\ndemo:") :].split("\n\n")[0].splitlines()
    told = re.fullmatch(r'\t@echo "its page: +\$\(BIN\)/sentinode serve (.+)"', lines[-1])
    assert told is not None
    words = shlex.split(told[1])
    app = typer.Typer()
    app.command()(serve)
    given = typer.main.get_command(app).make_context("serve", words.copy()).params
    folders = [str(given[name]) for name in ("run", "data", "slides", "heatmaps")]
    assert sorted(folders) == sorted(word for word in words if not word.startswith("--"))
    written = [word for line in lines[:-1] for word in line.split() if word.startswith("demo/")]
    assert all(any(Path(folder).is_relative_to(one) for one in written) for folder in folders)

"""Routes as the page uses them, and requests that the page would not send."""

import base64
import gzip
import http.client
import json
import threading

import numpy as np
import pytest

from hook.errors import ConfigError, SceneError
from hook.explore.server import MAX_BODY, listening

ROUTES = [
    ("GET", "/api/session"),
    ("GET", "/api/tiles/scene/0/0/0.png"),
    ("GET", "/api/tiles/regions/0/0/0.ids"),
    ("GET", "/api/regions/3"),
    ("GET", "/api/thumbnail/3.png"),
    ("GET", "/api/map"),
    ("GET", "/api/jobs/x"),
    ("GET", "/api/events"),
    ("POST", "/api/similar"),
    ("POST", "/api/classes"),
    ("PATCH", "/api/classes/1"),
    ("DELETE", "/api/classes/1"),
    ("POST", "/api/labels"),
    ("POST", "/api/points"),
    ("DELETE", "/api/points/1"),
    ("POST", "/api/undo"),
    ("POST", "/api/save"),
]


def test_all_routes_are_listed_here(served):
    """So that what follows holds for all of them."""
    found = set()
    for route in served.client.app.routes:
        found |= {(method, route.path) for method in route.methods if route.path.startswith("/api")}
    assert len(found) == len(ROUTES)


def test_the_session_of_the_scene(served):
    found = served.client.ask("/api/session").json
    assert found["title"] == "scene.tif"
    scene = found["scene"]
    assert (scene["width"], scene["height"], scene["zmax"]) == (160, 96, 0)
    assert scene["bands"] == ["blue", "green", "red", "nir"] and scene["rgb"] == [3, 2, 1]
    assert scene["crs"] == "EPSG:32632" and scene["unit"] == "metre"
    assert scene["transform"] == [2, 0, 688_600, 0, -2, 5_338_800]
    assert found["regions"] == {"state": "ready", "done": 1, "count": 59, "message": ""}
    assert found["classes"] == [] and found["labels"] == {}


def test_tiles_and_thumbnails(served):
    ask = served.client.ask
    for path in ("/api/tiles/scene/0/0/0.png?bands=4,3,2", "/api/thumbnail/3.png?size=32"):
        answer = ask(path)
        assert answer.headers["content-type"] == "image/png" and answer.body[1:4] == b"PNG"
    answer = ask("/api/tiles/regions/0/0/0.ids")
    ids = np.frombuffer(gzip.decompress(answer.body), "<u4").reshape(256, 256)
    assert (
        answer.headers["content-encoding"] == "gzip"
        and "max-age" in answer.headers["cache-control"]
    )
    assert (
        ids[:16, 64:80].tolist() == [[4] * 16] * 16
        and not ids[96:].any()
        and not ids[:16, :16].any()
    )
    for path in ("scene/1/0/0.png", "scene/0/0/0.png?bands=9", "regions/0/1/0.ids"):
        assert ask(f"/api/tiles/{path}").status == 400
    for path in ("tiles/scene/0/0/0.png?bands=x", "thumbnail/3.png?size=9999", "regions/x"):
        answer = ask(f"/api/{path}")
        assert answer.status == 422 and answer.json["message"] and answer.json["remedy"]


def test_a_region(served):
    found = served.client.ask("/api/regions/3").json  # the fifth square
    assert (found["pixels"], found["area_m2"], found["bounds"]) == (256, 1024, [64, 0, 80, 16])
    col, row = found["at"]
    assert 64 < col < 80 and 0 < row < 16
    assert found["coordinates"] == [688_600 + 2 * col, 5_338_800 - 2 * row]
    assert set(found["bands"]) == {"blue", "green", "red", "nir"}
    assert found["bands"]["red"]["mean"] == pytest.approx(1000, abs=10)
    assert found["label"] is found["predicted"] is found["probability"] is None
    for wrong in (-1, 59, 10**9):
        answer = served.client.ask(f"/api/regions/{wrong}")
        assert answer.status == 400 and answer.json["expected"] == "0 to 58"


def test_similar_regions(served):
    ask = served.client.ask
    dark = [k for k in range(59) if (k + 1) % 10 < 5]
    found = ask("/api/similar", {"regions": [3], "k": 5}).json["found"]
    assert len(found) == 5 and {one["id"] for one in found} <= set(dark) - {3}
    cosines = [one["similarity"] for one in found]
    assert cosines == sorted(cosines, reverse=True)
    found = ask("/api/similar", {"regions": [3, 4], "k": 60}).json["found"]
    assert {one["id"] for one in found} == set(range(59)) - {3, 4}
    polygon = [[120, 40], [150, 40], [150, 60], [120, 60]]
    found = ask("/api/similar", {"polygon": polygon, "k": 6}).json["found"]
    assert not {one["id"] for one in found} & set(dark)
    for col, row in (one["at"] for one in found):
        assert 80 < col < 160 and 0 < row < 96


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"regions": []},
        {"regions": [99]},
        {"regions": [3], "k": 0},
        {"regions": [3], "polygon": [[0, 0], [9, 0], [9, 9]]},
        {"polygon": [[0, 0], [9, 0]]},
        {"polygon": [[0, 0], [0, 0], [0, 0]]},
        {"polygon": [[500, 500], [509, 500], [509, 509]]},
        {"polygon": [[0, 0], [9, 0], ["x", 9]]},
        b"not json",
        b"[" * 10_000,
        b'{"polygon": [[1e999, 0], [9, 0], [9, 9]]}',
        b'{"polygon": [[NaN, 0], [9, 0], [9, 9]]}',
    ],
)
def test_bad_searches(served, body):
    answer = served.client.ask("/api/similar", body)
    assert answer.status in (400, 422) and answer.json["message"]


def test_labels_and_undo(served):
    client = served.client
    water, wood = client.add_class("water", "#0000ff"), client.add_class("wood")
    assert client.label(r3=water, r8=wood).status == 200
    assert client.label(r3=wood).status == 200
    found = client.ask("/api/session").json
    assert found["labels"] == {"3": wood, "8": wood}
    assert found["classes"][0] == {"id": water, "name": "water", "color": "#0000ff"}
    undone = client.ask("/api/undo", method="POST").json
    assert undone["labels"] == {"3": water} and undone["revision"] > found["revision"]
    assert client.ask("/api/regions/3").json["label"] == water
    client.ask(f"/api/classes/{wood}", {"name": "forest"}, "PATCH")
    client.ask(f"/api/classes/{water}", method="DELETE")
    found = client.ask("/api/session").json
    assert [one["name"] for one in found["classes"]] == ["forest"]
    assert found["labels"] == {"8": wood}
    for labels in ({"r8": 99}, {"r99": wood}):
        assert client.label(**labels).status == 400
    assert client.ask("/api/classes", {"name": "forest", "color": "#000000"}).status == 400
    assert client.ask("/api/labels", {"labels": []}).status == 422
    assert client.ask("/api/session").json["labels"] == {"8": wood}


def test_the_map_follows_the_labels(served):
    client = served.client
    assert client.ask("/api/map").status == 409
    first = client.add_class("zebra"), client.add_class("apple")
    client.label(r3=first[0])
    answer = client.ask("/api/map")
    assert answer.status == 409 and "two classes" in answer.json["message"]
    client.label(r8=first[1])
    found = client.ask("/api/map").json
    classes = np.frombuffer(base64.b64decode(found["classes"]), np.uint8)
    shares = np.frombuffer(base64.b64decode(found["probability"]), np.uint8)
    bright = (np.arange(1, 60) % 10 >= 5).astype(int)
    assert (classes == bright).all()  # indexes in the order of adding
    assert (shares >= 127).all() and found["revision"] == client.ask("/api/session").json[
        "revision"
    ]
    assert found["areas_m2"] == {
        str(one): 1024.0 * n for one, n in zip(first, np.bincount(bright), strict=True)
    }
    uncertain = found["uncertain"]
    assert len(uncertain) == 50 and not {3, 8} & set(uncertain)
    assert (np.diff(shares[uncertain].astype(int)) >= -1).all()
    region = client.ask("/api/regions/40").json
    assert region["predicted"] == first[bright[40]] and region["probability"] > 0.5
    client.label(r3=first[1], r8=first[0])
    found = client.ask("/api/map").json
    classes = np.frombuffer(base64.b64decode(found["classes"]), np.uint8)
    assert (classes == 1 - bright).all()


def test_two_pages_lose_no_labels_of_each_other(served):
    number = served.client.add_class("water")
    revisions = []

    def work(first):
        for region in range(first, first + 10):
            revisions.append(served.client.label(**{f"r{region}": number}).json["revision"])

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served.client.ask("/api/session").json["labels"]) == 30
    told = [event["revision"] for event in served.events if event["type"] == "revision"]
    assert max(told) == max(revisions) == served.client.ask("/api/session").json["revision"]


def test_pages_hear_of_changes(served):
    connection = http.client.HTTPConnection(served.client.host, timeout=10)
    connection.request("GET", f"/api/events?token={served.client.token}")
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.readline() == b": begin\n"
    served.client.add_class("water")
    lines = [answer.readline() for _ in range(3)]
    assert json.loads(lines[1].removeprefix(b"data: "))["type"] == "revision"
    connection.close()


# ---------------------------------------------------------------------------------- security
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_the_token_nothing_is_answered(served, method, path):
    body = None if method == "GET" else {}
    for token in ("", "wrong", "ü"):
        answer = served.client.ask(path, body, method, token=token)
        assert answer.status == 401 and "token" in answer.json["message"]
        assert "hook explore" in answer.json["remedy"]


def test_the_token_in_the_address_is_for_events_only(served):
    path = f"/api/session?token={served.client.token}"
    assert served.client.ask(path, token="").status == 401


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/api/session"])
def test_other_hosts_and_origins_are_refused(served, path):
    client = served.client
    port = client.port
    for host in ("example.com", f"example.com:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert client.ask(path, Host=host).status == 403
    for origin in ("http://example.com", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1"):
        assert client.ask(path, Origin=origin).status == 403
    assert client.ask(path, Origin=f"http://127.0.0.1:{port}").status == 200
    local = f"localhost:{port}"
    assert client.ask(path, Host=local, Origin=f"http://{local}").status == 200


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/api/session", "/api/regions/99"])
def test_every_answer_has_the_policy(served, path):
    headers = served.client.ask(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize(
    "path",
    ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "/etc/passwd", "%2fetc%2fpasswd"]
    + ["js/../../server.py", "..\\server.py", "", ".", "js", "missing.js", "index.html%00.js"],
)
def test_only_files_of_the_page_are_served(served, path):
    connection = http.client.HTTPConnection(served.client.host, timeout=10)
    connection.request("GET", f"/static/{path}")  # as it is, not normalised
    answer = connection.getresponse()
    assert answer.status == 404 and b"import" not in answer.read()
    connection.close()


def test_large_requests_are_refused(served):
    client = served.client
    connection = http.client.HTTPConnection(client.host, timeout=10)
    headers = {"X-Hook-Token": client.token, "Content-Type": "application/json"}
    # Refused by its headers: the body is not waited for.
    connection.request("POST", "/api/labels", b"", headers | {"Content-Length": str(MAX_BODY + 1)})
    assert connection.getresponse().status == 413
    connection.close()
    chunks = (b" " * 65536 for _ in range(MAX_BODY // 65536 + 2))
    connection.request("POST", "/api/labels", chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert client.ask("/api/session").status == 200


def test_it_listens_on_this_machine_only(served):
    with listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken(served):
    with pytest.raises(ConfigError, match=f"port {served.client.port}") as refused:
        listening(served.client.port)
    assert "--port" in refused.value.remedy


def test_before_there_are_regions(waiting):
    ask = waiting.client.ask
    regions = ask("/api/session").json["regions"]
    assert (regions["state"], regions["done"]) == ("computing", 0.4)
    assert ask("/api/tiles/scene/0/0/0.png").status == 200
    assert ask("/api/tiles/regions/0/0/0.ids").status == 204
    number = waiting.client.add_class("water")
    for path, body in (
        ("/api/regions/3", None),
        ("/api/map", None),
        ("/api/thumbnail/3.png", None),
        ("/api/similar", {"regions": [3]}),
        ("/api/labels", {"labels": [{"region": 3, "class_id": number}]}),
        ("/api/save", {"what": ["labels"]}),
    ):
        answer = ask(path, body)
        assert answer.status == 400 and "not there yet" in answer.json["message"], path


def test_classes_and_points_before_there_are_regions(waiting):
    client = waiting.client
    water, wood = client.add_class("water", "#0000ff"), client.add_class("wood")
    client.ask(f"/api/classes/{wood}", {"name": "forest", "color": "#00ff00"}, "PATCH")
    one, two = client.add_point(70.5, 8, water), client.add_point(100, 8, wood)
    other = client.add_point(100, 8, water, replaced=two)
    found = client.ask("/api/session").json
    assert found["points"] == [
        {"id": one, "at": [70.5, 8], "class_id": water},
        {"id": other, "at": [100, 8], "class_id": water},
    ]
    assert found["labels"] == found["places"] == {}
    assert client.ask("/api/undo", method="POST").json["revision"] == found["revision"] + 1
    points = client.ask("/api/session").json["points"]
    assert [(each["id"], each["class_id"]) for each in points] == [(one, water), (two, wood)]
    assert client.ask(f"/api/points/{one}", method="DELETE").status == 200
    answer = client.ask(f"/api/points/{one}", method="DELETE")
    assert answer.status == 400 and answer.json["message"] == "no such point"
    client.ask(f"/api/classes/{wood}", method="DELETE")
    assert client.ask("/api/session").json["points"] == []
    told = [event["revision"] for event in waiting.events if event["type"] == "revision"]
    assert told == list(range(1, 10))


@pytest.mark.parametrize("place", [(-0.1, 5), (161, 5), (5, 96.5), ("1e999", 5), (5, "NaN")])
def test_points_beyond_the_scene_are_refused(waiting, place):
    number = waiting.client.add_class("water")
    body = b'{"at": [%s, %s], "class_id": %d}' % (*(str(k).encode() for k in place), number)
    answer = waiting.client.ask("/api/points", body)
    assert answer.status == 400 and "row 0 to 96" in answer.json["expected"]
    assert waiting.client.ask("/api/session").json["points"] == []


def test_points_become_labels(waiting, computing):
    client = waiting.client
    water, wood = client.add_class("water", "#0000ff"), client.add_class("wood")
    client.add_point(70, 8, water)
    before = client.ask("/api/session").json["revision"]
    assert computing.end(waiting.session)["state"] == "ready"
    found = client.ask("/api/session").json
    assert (found["labels"], found["points"]) == ({"3": water}, [])
    assert 64 < found["places"]["3"][0] < 80 and found["revision"] > before
    assert found["regions"]["message"] == "1 point became 1 label."
    # A page that has not heard of it yet.
    assert client.add_point(140, 8, wood) is None
    assert client.ask("/api/session").json["labels"] == {"3": water, "7": wood}
    assert client.ask("/api/map").status == 200
    answer = client.ask("/api/points", {"at": [3, 3], "class_id": wood})
    assert answer.status == 400 and answer.json["message"] == "no region at this place"
    assert client.ask("/api/undo", method="POST").json["labels"] == {"7": None}


def test_points_that_do_not_count_are_told_of(waiting, computing):
    client = waiting.client
    water, wood = client.add_class("water", "#0000ff"), client.add_class("wood")
    client.add_point(70, 8, water)
    client.add_point(72, 9, wood)
    outside = client.add_point(3, 3, water)  # no data
    text = computing.end(waiting.session)["message"]
    assert text == (
        "2 points became 1 label. 1 of them did not count: a later point in the same region has "
        "another class."
    )
    found = client.ask("/api/session").json
    assert found["labels"] == {"3": wood}
    assert found["points"] == [{"id": outside, "at": [3, 3], "class_id": water}]
    assert client.ask("/api/map").status == 409  # it labels nothing
    assert client.ask(f"/api/points/{outside}", method="DELETE").status == 200
    assert client.ask("/api/session").json["points"] == []


def test_two_pages_lose_no_points_of_each_other(waiting, computing):
    """Also not of those that are set while points become labels."""
    number = waiting.client.add_class("water")

    def work(row):
        for column in range(10):
            body = {"at": [16 * column + 8, 16 * row + 8], "class_id": number}
            assert waiting.client.ask("/api/points", body).status == 200

    threads = [threading.Thread(target=work, args=(row,)) for row in (1, 3, 5)]
    for thread in threads:
        thread.start()
    assert computing.end(waiting.session)["state"] == "ready"
    for thread in threads:
        thread.join()
    found = waiting.client.ask("/api/session").json
    assert sorted(map(int, found["labels"])) == [
        10 * row + column - 1 for row in (1, 3, 5) for column in range(10)
    ]
    assert found["points"] == []


@pytest.mark.parametrize(
    "error", [SceneError("the model failed", remedy="try again"), ZeroDivisionError("unforeseen")]
)
def test_points_stay_when_regions_cannot_be_computed(waiting, computing, error):
    number = waiting.client.add_class("water")
    waiting.client.add_point(70, 8, number)
    computing.error = error
    state = computing.end(waiting.session)
    assert state["state"] == "failed" and str(error).splitlines()[0] in state["message"]
    waiting.client.add_point(90, 8, number)
    points = waiting.client.ask("/api/session").json["points"]
    assert [each["at"] for each in points] == [[70, 8], [90, 8]]


def test_the_first_picture_of_a_scene_is_told_of(served):
    assert served.client.ask("/api/session").json["picture"] == 1
    served.session._report_picture(0.25)
    assert served.events[-1] == {"type": "picture", "done": 0.25}
    assert served.client.ask("/api/session").json["picture"] == 0.25

"""Revisions of a hub id are a stage; the hub is a server on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as its client needs to list revisions and to fetch the files of one."""

    repos: dict  # name -> revision -> folder

    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revisions = "/".join(parts[2:4]), self.repos["/".join(parts[2:4])]
            if parts[4:] == ["refs"]:
                refs = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": sha(one)} for one in revisions]
                return self.answer(json.dumps({"branches": refs, "converts": [], "tags": []}).encode(), Content_Type="application/json")
            revision, folder = self.found(revisions, parts[5])
            found: object = {"id": name, "sha": sha(revision), "private": False, "tags": [], "downloads": 0}
            if parts[4] == "tree":
                files = sorted(folder.iterdir())
                found = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": sha(path.name)} for path in files]
            return self.answer(json.dumps(found).encode(), Content_Type="application/json")
        if parts[0] == "api":  # the client asks for more than it needs
            return self.send_error(404)
        revision, folder = self.found(self.repos["/".join(parts[:2])], parts[3])
        body = (folder / parts[4]).read_bytes()
        return self.answer(body, ETag=f'"{sha(revision + parts[4])}"', X_Repo_Commit=sha(revision))

    do_HEAD = do_GET

    def found(self, revisions, wanted):
        return next((one, folder) for one, folder in revisions.items() if wanted in (one, sha(one)))

    def log_message(self, *_):
        pass


def sha(text):
    return hashlib.sha1(text.encode()).hexdigest()


@pytest.fixture
def hub(tmp_path, base, trained):
    """Return the environment in which the hub is a server on this machine; it holds a model with three revisions of two steps."""
    revisions = {}
    for place, name in enumerate(["step1000", "step20", "main"]):
        folder = shutil.copytree(base, tmp_path / "hub" / name)
        weights = {key: values + place for key, values in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        revisions[name] = folder
    staged = {f"stage{n}-step{step}-tokens{step}B": base for n in (1, 2) for step in (5, 10)}
    beside = {f"stage2-ingredient{n}-step5": base for n in (1, 2)}
    handler = type("Handler", (Hub,), {"repos": {"people/model": revisions, "people/staged": staged, "people/beside": beside}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    server.shutdown()


SCRIPT = """
import json, sys
from valuedrift.checkpoints.discover import discover
from valuedrift.nouns import BadInput
from valuedrift.models.loading import weights_digest
try:
    found = discover(sys.argv[1:])
    print(json.dumps([[stage.name, [[step, path, weights_digest(path)] for step, path in stage.steps]] for stage in found]))
except BadInput as error:
    print(json.dumps(str(error)))
"""


def test_revisions_of_a_hub_id_are_a_stage(hub):
    def found(*targets):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *targets], env=hub, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    ((name, steps),) = found("people/model@step*")
    assert (name, [(step, path) for step, path, _ in steps]) == ("model", [(20, "people/model@step20"), (1000, "people/model@step1000")])
    assert len({weights for _, _, weights in steps}) == 2
    assert [step for step, _, _ in found("people/model@step20,main")[0][1]] == [20, 21]
    staged = found("people/staged@stage*")
    assert [(name, [step for step, _, _ in steps]) for name, steps in staged] == [("staged-stage1", [5, 10]), ("staged-stage2", [0, 5, 10])]
    assert "two branches of one training" in found("people/beside@*")
    assert "has no revision like 'epoch*'; it has step1000, step20, main" in found("people/model@epoch*")

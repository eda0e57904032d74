"""The contract of tenants, keys and scopes, and of what the process says of itself; black-box, on two API processes."""

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from stack_kit import Http

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SCOPES = ("submit", "read", "cancel", "approve", "admin")


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid.uuid4().hex[:10]}"


def test_a_tenant(http: Http, other_api: Http, tenant: str) -> None:
    """201 when it is made, 200 when it is changed; absent settings stay, null lifts a limit."""
    answer = http.call("PUT", f"/v1/tenants/{tenant}", {"name": "Bank", "weight": 2.5, "max_queued": 10})
    assert answer.status == 201
    answer = http.call("PUT", f"/v1/tenants/{tenant}", {"max_queued": None, "paused": False})
    assert answer.status == 200
    assert (answer.json["name"], answer.json["weight"], answer.json["max_queued"]) == ("Bank", 2.5, None)
    assert other_api.get(f"/v1/tenants/{tenant}").json == answer.json
    assert MOMENT.fullmatch(answer.json["updated_at"])
    assert tenant in [item["id"] for item in http.items("/v1/tenants?limit=500")]


@pytest.mark.parametrize(
    "body",
    [{"weight": 0}, {"weight": "x"}, {"weight": 1e300}, {"paused": 1}, {"colour": 1}, {"max_running": 0}, [],
     {"name": "a\0b"}, {"max_queued": 2**70}],
)  # fmt: skip
def test_a_bad_tenant(http: Http, tenant: str, body: object) -> None:
    """A setting that makes no sense is refused and the tenant is not made."""
    http.call("PUT", f"/v1/tenants/{tenant}", body).problem(422, "invalid_input")
    http.get(f"/v1/tenants/{tenant}").problem(404, "not_found")


@pytest.mark.parametrize("name", ["-x", "a" * 65, "a%20b", "%C3%BC"])
def test_a_bad_tenant_name(http: Http, name: str) -> None:
    """A tenant's id is letters, digits, dot, line and dash."""
    http.call("PUT", f"/v1/tenants/{name}", {}).problem(422, "invalid_input")


def test_a_paused_tenant(http: Http, other_api: Http, tenant: str) -> None:
    """Runs of a paused tenant are accepted, say why they wait, and start when the pause ends."""
    client = http.make_key(tenant, "submit", "read")
    assert http.call("PUT", f"/v1/tenants/{tenant}", {"paused": True}).status == 200
    run = Http(other_api.port, client.key).submit("echo", 1)
    assert run["blocked"] == {"reason": "tenant", "key": tenant, "until": None}
    assert client.run(run["id"])["state"] == "queued"
    assert http.call("PUT", f"/v1/tenants/{tenant}", {"paused": False}).status == 200
    assert client.ended(run["id"])["state"] == "succeeded"


def test_without_a_key(http: Http) -> None:
    """No key, a wrong one or another scheme is 401 with a challenge; health and documentation need none."""
    nobody = Http(http.port, None)
    for header in ("", "Bearer", "Bearer tw_wrong", "Basic abc", f"bearer  {http.key}x"):
        for method, path in (("POST", "/v1/runs"), ("GET", "/v1/runs"), ("GET", f"/v1/runs/{uuid.uuid4()}"),
                             ("GET", "/v1/agents"), ("PUT", "/v1/tenants/x"), ("POST", "/v1/runs/batch")):  # fmt: skip
            answer = nobody.call(method, path, {} if method != "GET" else None, authorization=header)
            answer.problem(401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert nobody.get(path).status == 200


def test_scopes(http: Http, tenant: str) -> None:
    """A key may do what its scopes say and no more; `admin` may do all."""
    clients = {scope: http.make_key(tenant, scope) for scope in SCOPES}
    run_id = clients["submit"].submit("echo", 1, delay_s=600)["id"]
    calls = {
        "submit": [("POST", "/v1/runs", {"agent": "echo", "input": 1}), ("POST", "/v1/runs/batch", {"runs": []})],
        "read": [("GET", path, None) for path in (f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/events", "/v1/agents",
                                                  "/v1/runs", f"/v1/runs/{run_id}/steps", "/v1/dead-letters")],
        "cancel": [("POST", f"/v1/runs/{run_id}/cancel", None), ("POST", "/v1/runs/cancel", {"filter": {}})],
        "admin": [("PUT", f"/v1/tenants/{tenant}", {}),
                  ("POST", f"/v1/tenants/{tenant}/keys", {"name": "k", "scopes": ["read"]}),
                  ("GET", f"/v1/tenants/{tenant}/keys", None)],
    }  # fmt: skip
    for needed, routes in calls.items():
        for method, path, body in routes:
            for scope, client in clients.items():
                answer = client.call(method, path, body)
                if scope in (needed, "admin"):
                    assert answer.status < 300, (scope, path, answer.body)
                else:
                    problem = answer.problem(403, "forbidden")
                    assert needed in problem["detail"]


def test_a_key_is_shown_once(http: Http, tenant: str) -> None:
    """The secret is in the answer that makes the key, and nowhere later."""
    assert http.call("PUT", f"/v1/tenants/{tenant}", {}).status == 201
    answer = http.post(f"/v1/tenants/{tenant}/keys", {"name": "mine", "scopes": ["read", "submit", "read"]})
    assert answer.status == 201
    made = answer.json
    assert made["key"].startswith("tw_")
    assert made["scopes"] == ["read", "submit"]
    (listed,) = http.items(f"/v1/tenants/{tenant}/keys")
    assert (listed["id"], listed["name"]) == (made["id"], "mine")
    assert made["key"] not in json.dumps(listed)
    for body in ({"name": "", "scopes": ["read"]}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["fly"]},
                 {"name": "x"}, {"name": "x", "scopes": ["read"], "y": 1}):  # fmt: skip
        http.post(f"/v1/tenants/{tenant}/keys", body).problem(422, "invalid_input")
    http.post("/v1/tenants/nobody/keys", {"name": "x", "scopes": ["read"]}).problem(404, "not_found")


def test_keys_hold_everywhere_at_once(http: Http, other_api: Http, tenant: str) -> None:
    """A key works on every API process after the answer that made it, and on none after the one that revoked it."""
    assert http.call("PUT", f"/v1/tenants/{tenant}", {}).status == 201
    for maker, user in ((http, other_api), (other_api, http)) * 3:
        made = maker.post(f"/v1/tenants/{tenant}/keys", {"name": "k", "scopes": ["read"]}).json
        client = Http(user.port, made["key"])
        assert client.get("/v1/runs").status == 200
        assert maker.call("DELETE", f"/v1/tenants/{tenant}/keys/{made['id']}").status == 204
        client.get("/v1/runs").problem(401, "unauthenticated")
        client.get(f"/v1/runs/{uuid.uuid4()}").problem(401, "unauthenticated")
        Http(maker.port, made["key"]).get("/v1/runs").problem(401, "unauthenticated")
    assert http.call("DELETE", f"/v1/tenants/{tenant}/keys/nonsense").status == 404


def test_many_keys_at_once(http: Http, other_api: Http, tenant: str) -> None:
    """Settings changed by many at once on two processes hold after each one's answer."""
    assert http.call("PUT", f"/v1/tenants/{tenant}", {}).status == 201

    def use(number: int) -> int:
        maker, user = (http, other_api) if number % 2 else (other_api, http)
        made = maker.post(f"/v1/tenants/{tenant}/keys", {"name": f"k{number}", "scopes": ["read"]}).json
        return Http(user.port, made["key"]).get("/v1/runs").status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(24))) == {200}


def test_tenants_do_not_see_each_other(http: Http, tenant: str) -> None:
    """Another tenant's run is not there, to read, follow, cancel or replay; lists hold one's own only."""
    mine = http.make_key(tenant, "submit", "read", "cancel")
    theirs = http.make_key(f"{tenant}-2", "submit", "read", "cancel")
    run = mine.result("echo", 1)
    assert run["tenant"] == tenant
    for path in ("", "/events", "/steps"):
        theirs.get(f"/v1/runs/{run['id']}{path}").problem(404, "not_found")
    for verb in ("cancel", "replay"):
        theirs.post(f"/v1/runs/{run['id']}/{verb}").problem(404, "not_found")
    with theirs.stream("GET", f"/v1/runs/{run['id']}/events") as (head, _):
        head.problem(404, "not_found")
    assert theirs.items("/v1/runs") == []
    assert [item["id"] for item in mine.items("/v1/runs")] == [run["id"]]
    theirs.get(f"/v1/runs?tenant={tenant}").problem(403, "forbidden")
    theirs.get("/v1/runs", x_tollway_tenant=tenant).problem(403, "forbidden")
    theirs.get(f"/v1/tenants/{tenant}").problem(404, "not_found")
    assert theirs.post("/v1/runs/cancel", {"filter": {}}).json == {"count": 0}


def test_an_admin_acts_for_a_tenant(http: Http, tenant: str) -> None:
    """With `X-Tollway-Tenant` an admin key submits and reads for that tenant; without, it reads all."""
    http.make_key(tenant, "read")
    acting = http.acting_for(tenant)
    run = acting.result("echo", 1)
    assert run["tenant"] == tenant
    assert [item["id"] for item in acting.items("/v1/runs")] == [run["id"]]
    assert http.run(run["id"]) == run
    other = http.result("echo", 1)
    acting.get(f"/v1/runs/{other['id']}").problem(404, "not_found")
    http.acting_for("nobody").get("/v1/runs").problem(404, "not_found")


def test_agents_are_published(http: Http) -> None:
    """Each agent is listed with version, lane, tier and the schemas of its input and output."""
    agents = {agent["name"]: agent for agent in http.items("/v1/agents")}
    assert {"echo", "greet", "changing"} <= set(agents)
    greet = agents["greet"]
    assert (greet["version"], greet["lane"], greet["tier"]) == ("7", "interactive", "fast")
    assert "name" in json.dumps(greet["input_schema"])
    assert "text" in json.dumps(greet["output_schema"])


def test_the_process_describes_itself(http: Http) -> None:
    """Metrics are Prometheus text without tenants or run ids; the OpenAPI document names the routes."""
    run = http.result("echo", 1)
    text = http.get("/metrics").body.decode()
    assert "# TYPE" in text
    assert run["id"] not in text
    paths = http.get("/openapi.json").json["paths"]
    assert {"/v1/runs", "/v1/runs/{run_id}", "/v1/runs/batch", "/readyz"} <= set(paths)
    assert b"<html" in http.get("/docs").body.lower()


def test_readiness(http: Http) -> None:
    """/readyz is 200 when all is at work, with workers and agents."""
    ready = http.get("/readyz").json
    assert (ready["ready"], ready["missing"], ready["workers"]) == (True, [], 1)
    assert "echo" in ready["agents"]

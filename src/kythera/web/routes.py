"""Addresses of the page and what answers at each."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from kythera import errors
from kythera.report import figures
from kythera.report.figures import Axis
from kythera.runs import tables
from kythera.runs.schema import NAME
from kythera.web import curves, guard, pages, statics
from kythera.web import desk as desks
from kythera.web.desk import Desk, Missing

LARGEST = 2**31 - 1  # number that every database holds
MOST_COMPARED = 8  # runs in one picture
RUN = "/api/studies/{study}/runs/{run}"
KINDS = {  # of files with trials
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}

Number = Annotated[int, InPath(ge=1, le=LARGEST)]
Trial = Annotated[int, InPath(ge=0, le=LARGEST)]
After = Annotated[int, Query(ge=-1, le=LARGEST)]
Find = Annotated[str, Query(max_length=NAME)]
One = Annotated[str, Field(pattern=r"^[1-9]\d{0,8}\.[1-9]\d{0,8}$")]
Of = Annotated[list[One], Query(min_length=1, max_length=MOST_COMPARED)]


class Named(BaseModel):
    """A name typed once more, or that of a user."""

    name: str = Field(max_length=NAME)


def add_to(app: FastAPI) -> None:
    """All routes, and what is said where one fails."""
    for add in (_add_pages, _add_runs, _add_parts, _add_downloads, _add_writes):
        add(app, app.state.desk)
    _add_errors(app)


def answer(request: Request, content: Any) -> Response:
    """JSON, or "not modified" where the browser has the same already."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type="application/json", headers={"etag": tag})


def _add_pages(app: FastAPI, desk: Desk) -> None:
    @app.get("/")
    def studies(request: Request) -> HTMLResponse:
        return HTMLResponse(pages.shell(request, "studies", "Studies"))

    @app.get("/studies/{study}")
    def study(request: Request, study: Number) -> HTMLResponse:
        desk.check()
        return HTMLResponse(pages.shell(request, "study", desk.study(study).name))

    @app.get("/compare")
    def compare(request: Request) -> HTMLResponse:
        return HTMLResponse(pages.shell(request, "compare", "Comparison"))

    @app.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        file = statics.find(name)
        if file is None:
            raise HTTPException(404)
        kind = statics.KINDS[file.suffix]
        found = FileResponse(file, media_type=kind, stat_result=file.stat())
        if found.headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": found.headers["etag"]})
        return found


def _add_runs(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/studies")
    def studies(request: Request) -> Response:
        desk.check()
        found = desk.studies() | {"read_only": app.state.read_only}
        return answer(request, found)

    @app.get(RUN)
    def live(
        request: Request,
        study: Number,
        run: Number,
        after: After = -1,
        axis: Axis = "events",
    ) -> Response:
        """What is new: the header always, the curves where there is a later trial."""
        desk.check()
        found = desk.study(study)
        row = desk.row(found, run)
        shown = desk.header(found, row) | {"read_only": app.state.read_only}
        last = -1 if row["last"] is None else row["last"]
        if not desk.has_begun(row):
            return answer(request, shown | {"last": -1, "begun": False})
        shown |= {"last": last, "begun": True}
        if last != after or after == -1:
            result = desk.result(found, run)
            shown["facts"] = desks.facts(result)
            shown["figures"] = curves.live(result, axis)
        return answer(request, shown)

    @app.get("/api/compare")
    def compare(request: Request, of: Of, axis: Axis = "events") -> Response:
        desk.check()
        return answer(request, desk.compared(list(dict.fromkeys(of)), axis))


def _add_parts(app: FastAPI, desk: Desk) -> None:
    @app.get(RUN + "/parameters")
    def parameters(
        request: Request, study: Number, run: Number, find: Find = ""
    ) -> Response:
        desk.check()
        result = desk.result(desk.study(study), run)
        return answer(request, desks.parameters(result, find))

    @app.get(RUN + "/paths")
    def paths(
        request: Request, study: Number, run: Number, axis: Axis = "events"
    ) -> Response:
        desk.check()
        result = desk.result(desk.study(study), run)
        groups = len(result.record["space"]["groups"])
        drawn = curves.paths(result, axis)
        return answer(request, {"groups": groups, "figures": drawn})

    @app.get(RUN + "/metrics")
    def metrics(request: Request, study: Number, run: Number) -> Response:
        desk.check()
        found = desk.study(study)
        desk.row(found, run)
        return answer(request, {"figures": curves.metrics(found.metrics(run))})

    @app.get(RUN + "/front")
    def front(
        request: Request, study: Number, run: Number, x: Find = "", y: Find = ""
    ) -> Response:
        desk.check()
        result = desk.result(desk.study(study), run)
        names = result.record["terms"]
        return answer(request, {"terms": names, "figure": figures.pareto(result, x, y)})

    @app.get(RUN + "/failures")
    def failures(request: Request, study: Number, run: Number) -> Response:
        desk.check()
        return answer(request, desks.failures(desk.result(desk.study(study), run)))

    @app.get(RUN + "/landscape")
    def landscape(request: Request, study: Number, run: Number) -> Response:
        desk.check()
        return answer(request, curves.landscape(desk.result(desk.study(study), run)))

    @app.get(RUN + "/drawings")
    def drawings(request: Request, study: Number, run: Number) -> Response:
        desk.check()
        found = desk.study(study)
        return answer(request, desk.drawings(found, run))

    @app.get(RUN + "/drawings/{trial}")
    def drawing(request: Request, study: Number, run: Number, trial: Trial) -> Response:
        desk.check()
        found = desk.study(study)
        desk.row(found, run)
        drawn = found.drawing(trial, run)
        if not drawn:
            raise Missing(
                f"Trial {trial} was not drawn. Ask for one that `drawings` lists."
            )
        return answer(request, {"figures": drawn})


def _add_downloads(app: FastAPI, desk: Desk) -> None:
    @app.get(RUN + "/trials.{kind}")
    def trials(study: Number, run: Number, kind: str) -> Response:
        if kind not in KINDS:
            raise HTTPException(404)
        desk.check()
        found = desk.study(study)
        data = tables.encode(desk.result(found, run), f".{kind}")
        return _attached(data, KINDS[kind], f"{found.name}-{run}", kind)

    @app.get(RUN + "/report.html")
    def report(study: Number, run: Number) -> Response:
        from kythera.report import page  # with SciPy: a second of the start

        desk.check()
        found = desk.study(study)
        written = page.page(desk.result(found, run))
        media = "text/html; charset=utf-8"
        return _attached(written.encode(), media, f"{found.name}-{run}", "html")


def _attached(data: bytes, media: str, name: str, ending: str) -> Response:
    """A file to be kept, which no browser opens as a page of this server.

    What not every file system can hold of a name becomes "_".
    """
    stem = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._")[-80:] or "study"
    headers = {
        "content-disposition": f'attachment; filename="{stem}.{ending}"',
        "content-security-policy": "sandbox",
    }
    return Response(data, media_type=media, headers=headers)


def _add_writes(app: FastAPI, desk: Desk) -> None:
    def own(request: Request, number: int) -> Any:
        """The study, where this request may change it."""
        desk.check()
        found = desk.study(number)
        if app.state.read_only:
            raise HTTPException(
                403,
                "This page only reads, since `kythera serve` was started without --write. "
                "Start it with, or use the command line.",
            )
        if guard.is_from_elsewhere(request.headers):
            raise HTTPException(
                403,
                f"What changes a study must come from this page, with the header "
                f"'{guard.OWN_HEADER}: 1', but this request did not. Send it from here.",
            )
        if found.user != desk.store.user:
            raise HTTPException(
                403,
                f"The study {found.name!r} is {found.user!r}'s, and {desk.store.user!r} "
                "may only read it. Ask its owner.",
            )
        return found

    @app.delete("/api/studies/{study}")
    def delete(request: Request, study: Number, again: Named) -> JSONResponse:
        found = own(request, study)
        desk.check_idle(found)
        if again.name != found.name:
            raise HTTPException(
                409,
                f"To delete the study {found.name!r} its name must be typed once more, "
                f"but {again.name!r} was.",
            )
        found.delete(name=again.name)
        return JSONResponse({"deleted": study})

    @app.post("/api/studies/{study}/shares")
    def share(request: Request, study: Number, user: Named) -> JSONResponse:
        own(request, study).share(user.name)
        return JSONResponse({"shared": study, "with": user.name})


def _add_errors(app: FastAPI) -> None:
    def say(request: Request, status: int, what: str) -> Response:
        if pages.route(request).startswith("/api/"):
            return JSONResponse({"error": what}, status)
        title = "Not found" if status == 404 else "This did not work"
        return HTMLResponse(pages.message(request, title, what), status)

    @app.exception_handler(Missing)
    def missing(request: Request, error: Missing) -> Response:
        return say(request, 404, str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        what = error.detail
        if error.status_code == 404:
            what = "There is nothing at this address. Go to the list of studies."
        return say(request, error.status_code, what)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        status = 404 if not pages.route(request).startswith("/api/") else 422
        return say(request, status, _laws(error.errors()))

    @app.exception_handler(errors.KytheraError)
    def ours(request: Request, error: errors.KytheraError) -> Response:
        kinds = {errors.StoreError: 503, errors.InputError: 400}
        status = next((kinds[k] for k in type(error).__mro__ if k in kinds), 501)
        return say(request, status, str(error))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        return say(
            request,
            500,
            f"The server failed with a {type(error).__name__}: a mistake of ours. What "
            "it printed says where; the store is untouched.",
        )


def _laws(found: Sequence[Any]) -> str:
    """What is wrong with a request, in a sentence for each part of it."""
    told = []
    for one in found[:5]:
        where = " ".join(str(part) for part in one["loc"][1:] or one["loc"])
        told.append(
            f"{where[:80]}: {one['msg']}, but is {str(one.get('input'))[:80]!r}."
        )
    return " ".join(told) + " Mend the address, or go to the list of studies."

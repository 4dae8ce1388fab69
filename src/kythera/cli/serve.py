"""The page: `kythera serve`."""

from typing import Annotated

import typer

from kythera.cli.base import Files, StorePath, User, app, open_store


@app.command()
def serve(
    store: StorePath = None,
    files: Files = None,
    user: User = None,
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="On which port.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(envvar="KYTHERA_TOKEN", help="What a browser must know."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Studies may be shared and deleted.")
    ] = False,
) -> None:
    """Show the studies of a store on a page, while they run.

    It listens on this machine alone unless --host says otherwise, which needs a --token.
    """
    from kythera.web.app import serve as run

    run(open_store(store, files, user), host=host, port=port, token=token, write=write)

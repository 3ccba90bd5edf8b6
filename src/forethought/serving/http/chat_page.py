"""The web page of a served model: a chat in one file that loads nothing and keeps nothing.

It looks as the report does and asks the server that it came from. All text reaches the document as
text alone, an answer's in the elements that its Markdown asks for; a content security policy lets
the page connect to its own origin and nowhere else. That the model thought, and for how long, is
said below an answer. A thought is shown behind a fold, and only where the server sends one; the key
is kept until the tab is closed.

    html = chat_page("policy", may_show_thoughts=False, offers_direct=False)
"""

from __future__ import annotations

import base64
import hashlib
import json

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def chat_page(model: str, *, may_show_thoughts: bool, offers_direct: bool) -> str:
    """The page. `may_show_thoughts` is whether any caller of this server is shown thoughts.

    Without it the page has no fold at all; with it a fold comes with each thought that is sent.
    `offers_direct` is whether thinking can be turned off; without it there is no switch for it.
    """
    environment = Environment(
        loader=ChoiceLoader(
            # The report's style and choice of light or dark are the page's own.
            [PackageLoader("forethought.serving"), PackageLoader("forethought.report")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
    )
    settings = json.dumps({"model": model, "thoughts": may_show_thoughts})
    scripts = [environment.get_template(name).render().strip() for name in ("theme.js", "chat.js")]
    return environment.get_template("chat.html").render(
        model=model,
        settings=settings,
        offers_direct=offers_direct,
        scripts=[Markup(script) for script in scripts],
        allowed=" ".join(f"'{_digest(script)}'" for script in scripts),
    )


def _digest(script: str) -> str:
    """How a content security policy names a script: no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

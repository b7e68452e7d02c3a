"""Updates the service from its template, and opens a merge request on GitLab: see propose.py.

    python scripts/propose_on_gitlab.py prepare <folder>
    python scripts/propose_on_gitlab.py publish <folder>

The jobs `update` and `propose` call them.
"""

import os
from urllib.parse import quote

from propose import GUIDE, Host, branch, fail, main


def host() -> Host:
    """The project on GitLab whose pipeline runs this. Its job token may not open merge requests."""
    variables = os.environ
    target = variables["CI_COMMIT_BRANCH"]
    token = variables.get("TEMPLATE_UPDATE_TOKEN")
    if not token:
        fail(f"TEMPLATE_UPDATE_TOKEN is not set; add a project access token: see {GUIDE}")
    return Host(
        api=f"{variables['CI_API_V4_URL']}/projects/{variables['CI_PROJECT_ID']}",
        token=token,
        address=f"{variables['CI_PROJECT_URL']}.git",
        requests="merge_requests",
        requests_query=f"source_branch={branch()}&target_branch={quote(target, safe='')}",
        issues_query="state=opened",
        new_request={"source_branch": branch(), "target_branch": target, "remove_source_branch": True},
        text="description",
        number="iid",
        url="web_url",
        update="PUT",
        close={"state_event": "close"},
    )


if __name__ == "__main__":
    main(host, __doc__)

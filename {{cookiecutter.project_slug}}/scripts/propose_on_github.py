"""Updates the service from its template, and opens a pull request on GitHub: see propose.py.

    python scripts/propose_on_github.py prepare <folder>
    python scripts/propose_on_github.py publish <folder>

The workflow `template` calls both.
"""

import os
from urllib.parse import quote

from propose import GUIDE, Host, branch, main

NO_CHECKS = f"""The token of the workflow opened this pull request, so its checks do not start by themselves. Close and
reopen it to start them. With the secret TEMPLATE_UPDATE_TOKEN they start: see {GUIDE}.
"""


def host() -> Host:
    """The repository on GitHub.com or GitHub Enterprise Server whose workflow runs this."""
    variables = os.environ
    repository, target = variables["GITHUB_REPOSITORY"], variables["GITHUB_REF_NAME"]
    address = f"{variables['GITHUB_SERVER_URL']}/{repository}"
    token = variables.get("TEMPLATE_UPDATE_TOKEN")
    return Host(
        api=f"{variables['GITHUB_API_URL']}/repos/{repository}",
        token=token or variables["GITHUB_TOKEN"],
        address=address,
        requests="pulls",
        requests_query=f"state=all&head={repository.partition('/')[0]}:{branch()}&base={quote(target, safe='')}",
        issues_query="state=open",
        new_request={"head": branch(), "base": target},
        text="body",
        number="number",
        url="html_url",
        update="PATCH",
        close={"state": "closed"},
        unpushable="" if token else ".github/workflows/",
        forbidden="not permitted to create",
        remark="" if token else NO_CHECKS,
        compare=f"{address}/compare/{quote(target)}...{branch()}?expand=1",
    )


if __name__ == "__main__":
    main(host, __doc__)

"""What every check of a page in headless Chromium needs."""

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


class Wrong(Exception):
    """The page does not do what it should."""


def must(condition, what):
    if not condition:
        raise Wrong(what)


def must_be_accessible(page, axe, what):
    """`axe` is the script of axe-core, which comes from outside: a policy of the page does not stop it. It finds nothing, and has looked."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    must(found["passes"], "axe checked nothing")
    wrong = [f"{what}: {one['id']}: {one['help']}: {node['target']} {node['failureSummary']}"
             for one in found["violations"] for node in one["nodes"][:3]]  # fmt: skip
    must(not wrong, "\n".join(wrong))

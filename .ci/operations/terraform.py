"""Checks what `terraform validate` cannot see of ecs/terraform/main.tf: that a stack gives its template parameters that it has, and
takes from other stacks outputs that they have.

Usage: terraform.py
"""

import re

from cloudformation import ROOT, TEMPLATES, load

MODULE = ROOT / "ecs" / "terraform" / "main.tf"
STACK = re.compile(r'^resource "aws_cloudformation_stack" "(\w+)" \{$(.*?)^\}$', re.M | re.S)
FILE = re.compile(r'template_body = file\("\$\{path\.module\}/(?:\.\./)+(?:\w+/)?([\w-]+\.yaml)"\)')
OUTPUT = re.compile(r'aws_cloudformation_stack\.(\w+)(?:\[0\])?\.outputs(?:\["(\w+)"\]|, "(\w+)")')
# What others lay around the module: a template of the folders that is no stack of it.
LEFT_OUT = {"faults.yaml", "analysis.yaml", "visuals.yaml", "market-visuals.yaml"}


def main():
    text = MODULE.read_text()
    templates = {name: FILE.search(body).group(1) for name, body in STACK.findall(text)}
    assert set(templates.values()) | LEFT_OUT == set(TEMPLATES), set(TEMPLATES) - set(templates.values()) - LEFT_OUT
    places = re.findall(r"^    (\w+) += ", re.search(r"^  places = \{$(.*?)^  \}$", text, re.M | re.S).group(1), re.M)
    assert len(places) == 4, places
    for name, body in STACK.findall(text):
        template = load(templates[name])
        known = template["Parameters"]
        given = set(re.findall(r"\b([A-Z]\w+) += ", body))
        if "local.places," in body:
            given |= set(places)
        for some in re.findall(r"in \[(.*?)\] : name => local\.places\[name\]", body):
            given |= set(re.findall(r'"(\w+)"', some))
        assert given <= set(known), f"{name}: {templates[name]} has no parameter {given - set(known)}"
        # What has no default is given, or the description of the variable asks for it.
        wanted = {one for one, parameter in known.items() if "Default" not in parameter} - given
        described = re.search(rf'^variable "{name}" \{{$(.*?)^\}}$', text, re.M | re.S).group(1)
        asked = {one for one in wanted if re.search(rf"\b{one}\b", described)}
        assert wanted == asked, f"{name}: nobody gives {templates[name]} {wanted - asked}"
        for stack, *outputs in OUTPUT.findall(body):
            output = "".join(outputs)
            assert output in load(templates[stack])["Outputs"], f"{name}: {templates[stack]} has no output {output}"
    print(f"{len(templates)} stacks of Terraform fit their templates")


main()

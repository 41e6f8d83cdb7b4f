"""Writes what visuals.yaml and market-visuals.yaml say into the templates, as Quick Sight takes it. Needs PyYAML.

Usage: definition.py
"""

import re
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
# By template what it shows.
TEMPLATES = {"dashboard.yaml": "visuals.yaml", "analysis.yaml": "visuals.yaml", "market-dashboard.yaml": "market-visuals.yaml"}
ARN = "arn:${AWS::Partition}:quicksight:${AWS::Region}:${AWS::AccountId}"
# Columns that are times, and what a category of them is.
TIMES = {"trade_time": "HOUR", "quarter_hour": "MINUTE", "price_hour": "HOUR", "snapshot_time": "SECOND"}
# By kind the visual, and the well of each member of visuals.yaml.
KINDS = {
    "kpi": ("KPIVisual", None, {"values": "Values"}),
    "table": ("TableVisual", "TableAggregatedFieldWells", {"by": "GroupBy", "values": "Values"}),
    "bar": ("BarChartVisual", "BarChartAggregatedFieldWells", {"by": "Category", "values": "Values"}),
    "stack": ("BarChartVisual", "BarChartAggregatedFieldWells", {"by": "Category", "values": "Values", "split": "Colors"}),
    "donut": ("PieChartVisual", "PieChartAggregatedFieldWells", {"by": "Category", "values": "Values"}),
    "line": ("LineChartVisual", "LineChartAggregatedFieldWells", {"by": "Category", "values": "Values", "split": "Colors"}),
    "combo": ("ComboChartVisual", "ComboChartAggregatedFieldWells", {"by": "Category", "values": "BarValues", "lines": "LineValues"}),
}
OPTIONS = {
    "bar": {"Orientation": "HORIZONTAL"},
    "stack": {"Orientation": "VERTICAL", "BarsArrangement": "STACKED"},
    "donut": {"DonutOptions": {"ArcOptions": {"ArcThickness": "MEDIUM"}}, "DataLabels": {"Visibility": "VISIBLE", "MeasureLabelVisibility": "VISIBLE"}},
    "combo": {"BarsArrangement": "CLUSTERED"},
}


def identifier(text):
    return re.sub(r"\W+", "-", text.lower())


def column(data, name):
    return {"DataSetIdentifier": data, "ColumnName": name}


def dimension(visual, name):
    kind = "DateDimensionField" if name in TIMES else "CategoricalDimensionField"
    field = {"FieldId": field_id(visual, name), "Column": column(visual["data"], name)}
    return {kind: field | ({"DateGranularity": TIMES[name]} if name in TIMES else {})}


def measure(visual, name):
    """A calculated field that aggregates by itself."""
    return {"NumericalMeasureField": {"FieldId": field_id(visual, name), "Column": column(visual["data"], name)}}


def field_id(visual, name):
    return f"{identifier(visual['title'])}.{identifier(name)}"


def sorting(visual):
    """Tables by name, times as they come, all else by what counts most."""
    by, first = visual.get("by"), visual["values"][0]
    if visual["kind"] == "table":
        return {"RowSort": [{"FieldSort": {"FieldId": field_id(visual, by), "Direction": "ASC"}}]}
    if by is None:
        return {}
    key, way = (by, "ASC") if by in TIMES else (first, "DESC")
    return {"CategorySort": [{"FieldSort": {"FieldId": field_id(visual, key), "Direction": way}}]}


def colors(visual, of):
    shown = visual.get("split", visual.get("by"))
    pairs = of.get(shown, {}).items()
    found = [{"Element": {"FieldId": field_id(visual, shown), "FieldValue": value}, "Color": color} for value, color in pairs]
    return {"VisualPalette": {"ColorMap": found}} if found else {}


def visual_of(visual, of_colors):
    name, inner, wells = KINDS[visual["kind"]]
    filled = {}
    for member, well in wells.items():
        given = visual[member] if isinstance(visual[member], list) else [visual[member]]
        filled[well] = [(dimension if member in ("by", "split") else measure)(visual, each) for each in given]
    sort = sorting(visual)
    chart = {"FieldWells": {inner: filled} if inner else filled}
    chart |= ({"SortConfiguration": sort} if sort else {}) | OPTIONS.get(visual["kind"], {}) | colors(visual, of_colors)
    return {
        name: {
            "VisualId": identifier(visual["title"]),
            "Title": {"Visibility": "VISIBLE", "FormatText": {"PlainText": visual["title"]}},
            "Subtitle": {"Visibility": "VISIBLE", "FormatText": {"PlainText": visual["question"]}},
            "ChartConfiguration": chart,
        }
    }


def filter_id(sheet, each):
    return f"{identifier(sheet['name'])}-{each['data']}-{each['column'].replace('_', '-')}"


def filter_of(sheet, each):
    """Shows everything, or so many of the last days, until a reader chooses."""
    plain = {"FilterId": filter_id(sheet, each), "Column": column(each["data"], each["column"])}
    if "days" in each:
        last = {"AnchorDateConfiguration": {"AnchorOption": "NOW"}, "TimeGranularity": "DAY", "RelativeDateType": "LAST"}
        one = {"RelativeDatesFilter": plain | last | {"RelativeDateValue": each["days"], "NullOption": "NON_NULLS_ONLY"}}
    else:
        everything = {"MatchOperator": "CONTAINS", "SelectAllOptions": "FILTER_ALL_VALUES"}
        one = {"CategoryFilter": plain | {"Configuration": {"FilterListConfiguration": everything}}}
    shown = [identifier(visual["title"]) for visual in sheet["visuals"] if visual["data"] == each["data"]]
    scope = {"SheetId": identifier(sheet["name"]), "Scope": "SELECTED_VISUALS", "VisualIds": shown}
    return {
        "FilterGroupId": filter_id(sheet, each),
        "Filters": [one],
        "ScopeConfiguration": {"SelectedSheets": {"SheetVisualScopingConfigurations": [scope]}},
        "Status": "ENABLED",
        "CrossDataset": "SINGLE_DATASET",
    }


def control(sheet, each):
    plain = {"FilterControlId": f"{filter_id(sheet, each)}-control", "Title": each["title"], "SourceFilterId": filter_id(sheet, each)}
    return {"RelativeDateTime": plain} if "days" in each else {"Dropdown": plain | {"Type": "MULTI_SELECT"}}


def element(visual):
    left, top, width, height = visual["place"]
    at = {"ColumnIndex": left, "ColumnSpan": width, "RowIndex": top, "RowSpan": height}
    return {"ElementId": identifier(visual["title"]), "ElementType": "VISUAL"} | at


def sheet_of(sheet, of_colors):
    canvas = {"ScreenCanvasSizeOptions": {"ResizeOption": "FIXED", "OptimizedViewPortWidth": "1600px"}}
    grid = {"Elements": [element(visual) for visual in sheet["visuals"]], "CanvasSizeOptions": canvas}
    return {
        "SheetId": identifier(sheet["name"]),
        "Name": sheet["name"],
        "ContentType": "INTERACTIVE",
        "FilterControls": [control(sheet, each) for each in sheet["filters"]],
        "Visuals": [visual_of(visual, of_colors) for visual in sheet["visuals"]],
        "Layouts": [{"Configuration": {"GridLayout": grid}}],
    }


def definition(spec):
    measures = spec["measures"].items()
    return {
        "DataSetIdentifierDeclarations": [
            {"Identifier": data, "DataSetArn": {"Fn::Sub": f"{ARN}:dataset/${{Name}}-{data}"}} for data, _ in measures
        ],
        "CalculatedFields": [
            {"DataSetIdentifier": data, "Name": name, "Expression": expression}
            for data, of in measures
            for name, expression in of.items()
        ],
        "FilterGroups": [filter_of(sheet, each) for sheet in spec["sheets"] for each in sheet["filters"]],
        "Sheets": [sheet_of(sheet, spec.get("colors", {})) for sheet in spec["sheets"]],
    }


BLOCK = re.compile(r"(?m)^( +)Definition: # made by definition\.py\n(?:\1 +\S.*\n)+")


def lines(definition):
    """YAML with a line for each visual, filter, field: to compare, not to read; and CloudFormation takes no more than 50 KiB."""
    for name, items in definition.items():
        yield f"{name}:"
        for item in items:
            if name == "Sheets":
                inner = list(lines({key: value for key, value in item.items() if isinstance(value, list)}))
                plain = {key: value for key, value in item.items() if not isinstance(value, list)}
                first, *rest = [*(f"{key}: {value}" for key, value in plain.items()), *inner]
                yield from [f"- {first}", *(f"  {line}" for line in rest)]
            else:
                yield "- " + yaml.safe_dump(item, sort_keys=False, width=float("inf"), default_flow_style=True).strip()


def written(template, spec):
    """The template with this definition in its place."""
    text = list(lines(definition(spec)))

    def block(found):
        inner = "".join(f"{found[1]}  {line}\n" for line in text)
        return f"{found[1]}Definition: # made by definition.py\n{inner}"

    template, count = BLOCK.subn(block, template)
    if count != 1:
        raise SystemExit(f"a template has {count} places for a definition")
    return template


def main():
    for name, shown in TEMPLATES.items():
        spec = yaml.safe_load((HERE / shown).read_text())
        text = (HERE / name).read_text()
        (HERE / name).write_text(written(text, spec))
        print(f"written: {name}")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    main()

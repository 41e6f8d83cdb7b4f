"""Checks quicksight/: cfn-lint, cfn-guard, the models of the API, and all that refers to something else. What the columns are and
what the visuals count is for .ci/lake/visuals.py.

Usage: quicksight.py
"""

import copy
import importlib.util
import json
import re
import sys

import yaml
from cloudformation import ROOT, Stack, load
from models import MODELS, against_model
from templates import change, explained, guard, lint

FOLDER = ROOT / "quicksight"
AUTHOR = "arn:aws:quicksight:eu-north-1:111122223333:user/default/author"
CASES = {
    "dashboard.yaml": {
        "plain": {"AuthorArn": AUTHOR, "LakeBucket": "my-lake"},
        "whole": {
            "AuthorArn": AUTHOR,
            "ReaderArn": "arn:aws:quicksight:eu-north-1:111122223333:group/default/readers",
            "LakeBucket": "lakebucket",
            "LandingBucket": "landingbucket",
            "KeyArn": "arn:aws:kms:eu-north-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        },
    },
    "analysis.yaml": {"whole": {"AuthorArn": AUTHOR}},
    "market-dashboard.yaml": {
        "plain": {"AuthorArn": AUTHOR, "LakeBucket": "my-lake"},
        "whole": {
            "AuthorArn": AUTHOR,
            "ReaderArn": "arn:aws:quicksight:eu-north-1:111122223333:group/default/readers",
            "LakeBucket": "lakebucket",
            "KeyArn": "arn:aws:kms:eu-north-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        },
    },
}
# What owners and viewers may do, by type: Quick Sight takes these sets, and no others.
OWNER = {
    "DataSource": "DescribeDataSource DescribeDataSourcePermissions PassDataSource UpdateDataSource DeleteDataSource "
    "UpdateDataSourcePermissions",
    "DataSet": "DescribeDataSet DescribeDataSetPermissions PassDataSet DescribeIngestion ListIngestions UpdateDataSet DeleteDataSet "
    "CreateIngestion CancelIngestion UpdateDataSetPermissions",
    "Theme": "DescribeTheme DescribeThemeAlias ListThemeAliases ListThemeVersions DescribeThemePermissions UpdateTheme DeleteTheme "
    "UpdateThemePermissions CreateThemeAlias UpdateThemeAlias DeleteThemeAlias",
    "Analysis": "RestoreAnalysis UpdateAnalysisPermissions DeleteAnalysis DescribeAnalysisPermissions QueryAnalysis DescribeAnalysis "
    "UpdateAnalysis",
    "Dashboard": "DescribeDashboard ListDashboardVersions UpdateDashboardPermissions QueryDashboard UpdateDashboard DeleteDashboard "
    "DescribeDashboardPermissions UpdateDashboardPublishedVersion",
}
VIEWER = {"Dashboard": "DescribeDashboard ListDashboardVersions QueryDashboard"}
# Permissions that are no operations of the API.
NO_OPERATIONS = {"PassDataSource", "PassDataSet", "QueryAnalysis", "QueryDashboard"}
# Structures of which exactly one member is given: the model does not say so.
ONE_OF = {"Visual", "DimensionField", "MeasureField", "PhysicalTable", "Filter", "FilterControl", "LogicalTableSource", "FieldSortOptions"}
# Types of columns that a field takes.
TAKES = {
    "DateDimensionField": {"DATETIME"},
    "CategoricalDimensionField": {"STRING"},
    "NumericalMeasureField": {"INTEGER", "DECIMAL"},
    "CategoricalMeasureField": {"STRING"},
    "DateMeasureField": {"DATETIME"},
    "CategoryFilter": {"STRING"},
    "RelativeDatesFilter": {"DATETIME"},
}
COLUMNS = 36


def stacks():
    for name, cases in CASES.items():
        for case, parameters in cases.items():
            stack = Stack(load(name), **parameters)
            # Without the classes of cfn-lint, which take their time to be copied.
            stack.resources = json.loads(json.dumps(stack.resources))
            yield name, case, stack


# ---- The API


def requests(stack):
    """Each document as the requests that CloudFormation makes of it: resource, operation, input."""
    for kind in ("DataSource", "Theme", "Analysis", "Dashboard"):
        for name, found in stack.of(f"AWS::QuickSight::{kind}").items():
            yield name, f"Create{kind}", found
    for name, found in stack.of("AWS::QuickSight::DataSet").items():
        of = {key: found[key] for key in ("AwsAccountId", "DataSetId")}
        yield name, "PutDataSetRefreshProperties", of | {"DataSetRefreshProperties": found["DataSetRefreshProperties"]}
        yield name, "CreateDataSet", {key: item for key, item in found.items() if key != "DataSetRefreshProperties"}
    for name, found in stack.of("AWS::QuickSight::RefreshSchedule").items():
        schedule = found["Schedule"]
        frequency = {{"TimeZone": "Timezone"}.get(key, key): item for key, item in schedule["ScheduleFrequency"].items()}
        yield name, "CreateRefreshSchedule", found | {"Schedule": schedule | {"ScheduleFrequency": frequency}}


def models(place, stack):
    for name, operation, found in requests(stack):
        yield from against_model(f"{place} {name}", "quicksight", operation, found)
        shape = MODELS.get_service_model("quicksight").operation_model(operation).input_shape
        yield from one_of(shape, found, f"{place} {name}")


def one_of(shape, value, place):
    if shape.type_name == "structure" and isinstance(value, dict):
        if shape.name in ONE_OF and len(value) != 1:
            yield f"{place}: {sorted(value)} is not one member of {shape.name}"
        for key in value.keys() & shape.members.keys():
            yield from one_of(shape.members[key], value[key], f"{place}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from one_of(shape.member, item, place)
    elif shape.type_name == "map" and isinstance(value, dict):
        for item in value.values():
            yield from one_of(shape.value, item, place)


# ---- Data sets


def input_columns(data_set):
    """Names and types."""
    (table,) = data_set["PhysicalTableMap"].values()
    return {column["Name"]: column["Type"] for column in table["RelationalTable"]["InputColumns"]}


def window(data_set):
    """None where a refresh reads everything."""
    found = data_set["DataSetRefreshProperties"].get("RefreshConfiguration")
    return found and found["IncrementalRefresh"]["LookbackWindow"]


def data_sets(place, stack):
    """Quick Sight's rules for refreshes, which no model has."""
    found = stack.of("AWS::QuickSight::DataSet")
    schedules = {}
    for name, schedule in stack.of("AWS::QuickSight::RefreshSchedule").items():
        schedules.setdefault(schedule["DataSetId"], []).append(schedule["Schedule"])
        if schedule["DataSetId"] not in {one["DataSetId"] for one in found.values()}:
            yield f"{place} {name}: is of {schedule['DataSetId']}, which is not there"
    for name, data_set in found.items():
        of = schedules.get(data_set["DataSetId"], [])
        kinds = {(one["RefreshType"], one["ScheduleFrequency"]["Interval"]) for one in of}
        if window(data_set) is None:
            if kinds != {("FULL_REFRESH", "HOURLY")}:
                yield f"{place} {name}: is not read anew each hour"
        elif input_columns(data_set).get(window(data_set)["ColumnName"]) != "DATETIME":
            yield f"{place} {name}: its window is over {window(data_set)['ColumnName']}, which is no time of it"
        if window(data_set) and ("INCREMENTAL_REFRESH", "MINUTE15") not in kinds:
            yield f"{place} {name}: is not refreshed every 15 minutes"
        if not any(kind == "FULL_REFRESH" for kind, _ in kinds):
            yield f"{place} {name}: never sees what changed before its window"
        if any(kind == "FULL_REFRESH" and interval.startswith("MINUTE") for kind, interval in kinds):
            yield f"{place} {name}: a full refresh every few minutes is refused"
        ids, often = [one["ScheduleId"] for one in of], [one["ScheduleFrequency"]["Interval"] for one in of]
        often = [one for one in often if one in ("MINUTE15", "MINUTE30", "HOURLY")]
        if len(of) > 5 or len(set(ids)) < len(ids) or len(set(often)) < len(often):
            yield f"{place} {name}: has too many schedules, or two alike"


# ---- What a definition refers to


def definitions(stack):
    for kind in ("Analysis", "Dashboard"):
        for name, found in stack.of(f"AWS::QuickSight::{kind}").items():
            yield name, found["Definition"]


def nodes(value):
    """Every dictionary in it."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(item)


def fields(value):
    """Kind and content of each field and filter."""
    return [(kind, node[kind]) for node in nodes(value) for kind in TAKES if kind in node]


def columns_of(expression):
    """The columns that a calculated field names: in braces; without, only functions and numbers may be there."""
    rest = re.sub(r"\{[^}]*\}", "", expression)
    rest = re.sub(r"\b[a-z_]+\(", "(", rest)
    return re.findall(r"\{([^}]*)\}", expression), re.findall(r"[A-Za-z_]\w*", rest)


def references(place, definition, known):
    """`known`: by ARN the columns of each data set, with their types."""
    types, calculated = {}, {}
    for one in definition["DataSetIdentifierDeclarations"]:
        if one["DataSetArn"] not in known:
            yield f"{place}: the data set {one['DataSetArn']} is not there"
        types[one["Identifier"]] = dict(known.get(one["DataSetArn"], {}))
    used = set()
    for one in definition["CalculatedFields"]:
        data, where = one["DataSetIdentifier"], f"{place}: the calculated field {one['Name']}"
        named, bare = columns_of(one["Expression"])
        unknown = sorted(set(named) - set(types.get(data, {})))
        if unknown or bare:
            yield f"{where} names {unknown + bare}, which {data} does not have"
        used |= {(data, name) for name in named}
        calculated.setdefault(data, set()).add(one["Name"])
        if one["Name"].lower() in {name.lower() for name in types.get(data, {})}:
            yield f"{where} has the name of a column"
    for kind, field in fields(definition):
        data, name = field["Column"]["DataSetIdentifier"], field["Column"]["ColumnName"]
        where = f"{place}: {field.get('FieldId') or field.get('FilterId')}"
        used.add((data, name))
        if data not in types:
            yield f"{where}: the data set {data} is not declared"
        elif name in calculated.get(data, ()):
            if kind != "NumericalMeasureField" or "AggregationFunction" in field:
                yield f"{where}: {name} is aggregated already"
        elif name not in types[data]:
            yield f"{where}: {data} has no column {name}"
        elif types[data][name] not in TAKES[kind]:
            yield f"{where}: {name} is a {types[data][name]}, not for a {kind}"
    names = {(data, name) for data, of in types.items() for name in of} | {(data, name) for data, of in calculated.items() for name in of}
    for data, name in sorted(names - used):
        yield f"{place}: nothing shows {data}.{name}"


def visuals(sheet):
    for visual in sheet["Visuals"]:
        (one,) = visual.values()
        yield one


def repeated(values):
    return sorted({value for value in values if values.count(value) > 1})


def sheets(place, definition):
    every = [each for sheet in definition["Sheets"] for each in visuals(sheet)]
    filters = [one for kind, one in fields(definition["FilterGroups"])]
    controls = [one for sheet in definition["Sheets"] for each in sheet["FilterControls"] for one in each.values()]
    ids = [one["VisualId"] for one in every] + [one["SheetId"] for one in definition["Sheets"]]
    ids += [one["FilterControlId"] for one in controls] + [field["FieldId"] for one in every for _, field in fields(one)]
    for several in (ids, [one["FilterId"] for one in filters], [one["FilterGroupId"] for one in definition["FilterGroups"]]):
        for one in repeated(several):
            yield f"{place}: {one} is there twice"
    yield from scopes(place, definition)
    for one in controls:
        if one["SourceFilterId"] not in [each["FilterId"] for each in filters]:
            yield f"{place}: {one['FilterControlId']} is for no filter"
    for sheet in definition["Sheets"]:
        yield from layout(f"{place} {sheet['SheetId']}", sheet)
        for visual in visuals(sheet):
            where = f"{place} {visual['VisualId']}"
            for member in ("Title", "Subtitle"):
                if not visual.get(member, {}).get("FormatText", {}).get("PlainText", "").strip():
                    yield f"{where}: has no {member.lower()}"
            if "?" not in visual.get("Subtitle", {}).get("FormatText", {}).get("PlainText", "?"):
                yield f"{where}: its subtitle asks nothing"
            own = {field["FieldId"] for _, field in fields(visual)}
            named = {node["FieldId"] for node in nodes(visual["ChartConfiguration"]) if "FieldId" in node}
            for one in sorted(named - own):
                yield f"{where}: sorts or colours by {one}, which it does not show"


def scopes(place, definition):
    """A filter is for the visuals of its data set, of a sheet: Quick Sight refuses it for others."""
    shown = {
        (sheet["SheetId"], data): sorted({visual["VisualId"] for visual in visuals(sheet) for one in sources(visual) if one == data})
        for sheet in definition["Sheets"]
        for data in {one["Identifier"] for one in definition["DataSetIdentifierDeclarations"]}
    }
    for group in definition["FilterGroups"]:
        for scope in group["ScopeConfiguration"]["SelectedSheets"]["SheetVisualScopingConfigurations"]:
            for data in sources(group["Filters"]):
                if sorted(scope["VisualIds"]) != shown.get((scope["SheetId"], data)):
                    yield f"{place}: {group['FilterGroupId']} is not for the visuals of {data} in {scope['SheetId']}"


def sources(value):
    """The data sets of its fields."""
    return {field["Column"]["DataSetIdentifier"] for _, field in fields(value)}


def layout(place, sheet):
    (one,) = sheet["Layouts"]
    elements = one["Configuration"]["GridLayout"]["Elements"]
    if sorted(each["ElementId"] for each in elements) != sorted(visual["VisualId"] for visual in visuals(sheet)):
        yield f"{place}: not every visual has its place"
    taken = set()
    for each in elements:
        across = range(each["ColumnIndex"], each["ColumnIndex"] + each["ColumnSpan"])
        cells = {(x, y) for x in across for y in range(each["RowIndex"], each["RowIndex"] + each["RowSpan"])}
        if cells & taken or across.stop > COLUMNS:
            yield f"{place}: {each['ElementId']} overlaps"
        taken |= cells


def permissions(place, stack):
    operations = set(MODELS.get_service_model("quicksight").operation_names) | NO_OPERATIONS
    for kind in OWNER:
        sets = {frozenset(f"quicksight:{name}" for name in one[kind].split()) for one in (OWNER, VIEWER) if kind in one}
        for name, found in stack.of(f"AWS::QuickSight::{kind}").items():
            for one in found["Permissions"]:
                if frozenset(one["Actions"]) not in sets:
                    yield f"{place} {name}: these permissions are no set of Quick Sight"
    for action in {action for of in (OWNER, VIEWER) for one in of.values() for action in one.split()} - operations:
        yield f"there is no permission {action}"


# ---- All of it


def known(stack):
    """By ARN the columns of the data sets of a stack."""
    arn = "arn:aws:quicksight:eu-north-1:111122223333:dataset/"
    return {arn + one["DataSetId"]: input_columns(one) for one in stack.of("AWS::QuickSight::DataSet").values()}


def faults(place, stack, beside):
    """`beside`: the stack with the data sets. What the API refuses is looked at no further."""
    refused = list(models(place, stack))
    if refused:
        yield from refused
        return
    yield from data_sets(place, stack)
    yield from permissions(place, stack)
    for name, definition in definitions(stack):
        yield from references(f"{place} {name}", definition, known(beside))
        yield from sheets(f"{place} {name}", definition)
    yield from guard(place, stack)


DATA = ("Trades", "Properties")
TABLE = (*DATA, "PhysicalTableMap", "trades", "RelationalTable")
DEFINITION = ("Dashboard", "Properties", "Definition")
SHEET = (*DEFINITION, "Sheets", 0)
TABLE_VISUAL = (*SHEET, "Visuals", 1, "TableVisual")
WELLS = (*TABLE_VISUAL, "ChartConfiguration", "FieldWells", "TableAggregatedFieldWells")
SCHEDULE = ("TradesEvery15Minutes", "Properties", "Schedule")
# Faults that the checks must notice: what is said of them, and what lies where then.
PLANTED = [
    ("'PIE' is none of", "PIE", "Source", "Properties", "Type"),
    ("'MINUTE5' is none of", "MINUTE5", *SCHEDULE, "ScheduleFrequency", "Interval"),
    ("a full refresh every few minutes", "FULL_REFRESH", *SCHEDULE, "RefreshType"),
    ("is not refreshed every 15 minutes", "HOURLY", *SCHEDULE, "ScheduleFrequency", "Interval"),
    ("never sees what changed", "INCREMENTAL_REFRESH", "TradesEveryNight", "Properties", "Schedule", "RefreshType"),
    ("two alike", "every-15-minutes", "TradesEveryNight", "Properties", "Schedule", "ScheduleId"),
    ("which is not there", "kinetide-trade", "TradesEveryNight", "Properties", "DataSetId"),
    ("Unknown parameter in Schedule", "x", *SCHEDULE, "RefreshTypes"),
    ("is no time of it", "exchange", *DATA, "DataSetRefreshProperties", "RefreshConfiguration", "IncrementalRefresh", "LookbackWindow", "ColumnName"),
    ("'MINUTE' is none of", "MINUTE", *DATA, "DataSetRefreshProperties", "RefreshConfiguration", "IncrementalRefresh", "LookbackWindow", "SizeUnit"),
    ("valid min value: 1", 0, *DATA, "DataSetRefreshProperties", "RefreshConfiguration", "IncrementalRefresh", "LookbackWindow", "Size"),
    ("Missing required parameter in DataSetRefreshProperties.RefreshConfiguration", {}, *DATA, "DataSetRefreshProperties", "RefreshConfiguration", "IncrementalRefresh"),
    ("'FIXE' is none of", "FIXE", *TABLE, "InputColumns", 8, "SubType"),
    ("Missing required parameter in PhysicalTableMap", {"Name": "trade_time"}, *TABLE, "InputColumns", 0),
    ("is not one member of PhysicalTable", {}, *DATA, "PhysicalTableMap", "trades"),
    ("does not match [0-9a-zA-Z-]*", "trades_1", *DATA, "LogicalTableMap", "trades", "Source", "PhysicalTableId"),
    ("keeps wallets out", {"Name": "wallet_address", "Type": "STRING"}, *TABLE, "InputColumns", 4),
    ("names ['trade_fee']", {"Name": "trade_fees", "Type": "DECIMAL"}, *TABLE, "InputColumns", 9),
    ("nothing shows trades.order_source", {"Name": "order_source", "Type": "STRING"}, *TABLE, "InputColumns", 3),
    ("is a STRING, not for a DateDimensionField", "STRING", *TABLE, "InputColumns", 0, "Type"),
    ("names ['fee']", "sum({fee})", *DEFINITION, "CalculatedFields", 3, "Expression"),
    ("names ['b']", "sum({trade_fee}) + b", *DEFINITION, "CalculatedFields", 3, "Expression"),
    ("has the name of a column", "Trade_Fee", *DEFINITION, "CalculatedFields", 3, "Name"),
    ("has no column Trade fees", "Fees", *DEFINITION, "CalculatedFields", 3, "Name"),
    ("is not there", "arn:aws:quicksight:eu-north-1:111122223333:dataset/other", *DEFINITION, "DataSetIdentifierDeclarations", 0, "DataSetArn"),
    ("the data set trade is not declared", "trade", *WELLS, "GroupBy", 0, "CategoricalDimensionField", "Column", "DataSetIdentifier"),
    ("has no column market", "market", *WELLS, "GroupBy", 0, "CategoricalDimensionField", "Column", "ColumnName"),
    ("is a DECIMAL, not for a CategoricalDimensionField", "quantity", *WELLS, "GroupBy", 0, "CategoricalDimensionField", "Column", "ColumnName"),
    ("is aggregated already", {"SimpleNumericalAggregation": "SUM"}, *WELLS, "Values", 0, "NumericalMeasureField", "AggregationFunction"),
    ("'TOTAL' is none of", {"SimpleNumericalAggregation": "TOTAL"}, *WELLS, "Values", 0, "NumericalMeasureField", "AggregationFunction"),
    ("is not one member of MeasureField", {}, *WELLS, "Values", 0),
    ("Missing required parameter in Definition", {"FieldId": "a"}, *WELLS, "Values", 0, "NumericalMeasureField"),
    ("Invalid type for parameter Definition", "quantity", *WELLS, "Values"),
    ("Unknown parameter in Definition", [], *WELLS, "Colours"),
    ("Unknown parameter in Definition", {}, *SHEET, "Visuals", 1, "TabelVisual"),
    ("is there twice", "trade-fee-collected", *TABLE_VISUAL, "VisualId"),
    ("not every visual has its place", "exchange", *TABLE_VISUAL, "VisualId"),
    ("does not match [\\w\\-]+", "exchange comparison", *TABLE_VISUAL, "VisualId"),
    ("has no title", {}, *TABLE_VISUAL, "Title"),
    ("has no subtitle", {"FormatText": {"PlainText": " "}}, *TABLE_VISUAL, "Subtitle"),
    ("its subtitle asks nothing", {"FormatText": {"PlainText": "By exchange."}}, *TABLE_VISUAL, "Subtitle"),
    ("which it does not show", "pair", *TABLE_VISUAL, "ChartConfiguration", "SortConfiguration", "RowSort", 0, "FieldSort", "FieldId"),
    ("'UP' is none of", "UP", *TABLE_VISUAL, "ChartConfiguration", "SortConfiguration", "RowSort", 0, "FieldSort", "Direction"),
    ("overlaps", 20, *SHEET, "Layouts", 0, "Configuration", "GridLayout", "Elements", 1, "ColumnSpan"),
    ("37 is out of range", 37, *SHEET, "Layouts", 0, "Configuration", "GridLayout", "Elements", 1, "ColumnSpan"),
    ("is for no filter", "other", *SHEET, "FilterControls", 0, "Dropdown", "SourceFilterId"),
    ("is not for the visuals of trades in other", "other", *DEFINITION, "FilterGroups", 0, "ScopeConfiguration", "SelectedSheets", "SheetVisualScopingConfigurations", 0, "SheetId"),
    ("is not for the visuals of trades in trades", ["volatility"], *DEFINITION, "FilterGroups", 0, "ScopeConfiguration", "SelectedSheets", "SheetVisualScopingConfigurations", 0, "VisualIds"),
    ("is a DECIMAL, not for a CategoryFilter", "quantity", *DEFINITION, "FilterGroups", 0, "Filters", 0, "CategoryFilter", "Column", "ColumnName"),
    ("does not match ^#[A-F0-9]{6}$", "#3b7dd8", "Theme", "Properties", "Configuration", "UIColorPalette", "Accent"),
    ("no set of Quick Sight", ["quicksight:DescribeDashboard"], "Dashboard", "Properties", "Permissions", 1, "Actions"),
    ("not for everybody", "arn:aws:quicksight:eu-north-1:111122223333:namespace/default", "Dashboard", "Properties", "Permissions", 1, "Principal"),
    ("nobody without a permission", {"Permissions": [{"Principal": AUTHOR, "Actions": ["quicksight:DescribeDashboard"]}]}, "Dashboard", "Properties", "LinkSharingConfiguration"),
    ("only with a role of its own", {"WorkGroup": "primary"}, "Source", "Properties", "DataSourceParameters", "AthenaParameters"),
    ("says when a refresh fails", "DISABLED", *DATA, "DataSetRefreshProperties", "FailureConfiguration", "EmailAlert", "AlertStatus"),
]  # fmt: skip


# In the dashboard of market prices.
MARKET_PLANTED = [
    ("is not read anew each hour", "DAILY", "CoinsEveryHour", "Properties", "Schedule", "ScheduleFrequency", "Interval"),
    ("is not read anew each hour", "INCREMENTAL_REFRESH", "TrendEveryHour", "Properties", "Schedule", "RefreshType"),
    ("has no column priced_hour", "priced_hour", "Dashboard", "Properties", "Definition", "Sheets", 1, "Visuals", 2, "LineChartVisual", "ChartConfiguration",
     "FieldWells", "LineChartAggregatedFieldWells", "Category", 0, "DateDimensionField", "Column", "ColumnName"),
    ("names ['market_cap']", {"Name": "market_caps", "Type": "INTEGER"}, "Coins", "Properties", "PhysicalTableMap", "coins", "RelationalTable", "InputColumns", 1),
]  # fmt: skip


def blind(stack, planted):
    """Planted faults that no check notices."""
    for said, value, *path in planted:
        ill = copy.copy(stack)
        ill.resources = copy.deepcopy(stack.resources)
        change(ill, value, *path)
        if not any(said in fault for fault in faults("planted", ill, ill)):
            yield f"nothing says {said!r} of a planted fault: {list(faults('planted', ill, ill))}"


def current():
    """The templates have what is said to be shown, and a change of it is noticed."""
    spec = importlib.util.spec_from_file_location("definition", FOLDER / "definition.py")
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    assert definition.TEMPLATES.keys() == CASES.keys(), definition.TEMPLATES
    for name, source in definition.TEMPLATES.items():
        shown, text = yaml.safe_load((FOLDER / source).read_text()), (FOLDER / name).read_text()
        if definition.written(text, shown) != text:
            yield f"quicksight/{name} is not of {source}: run quicksight/definition.py"
        shown["sheets"][0]["visuals"][0]["title"] = "Another"
        if definition.written(text, shown) == text:
            yield f"quicksight/{name}: a change of {source} is not noticed"


def main():
    files = [FOLDER / name for name in CASES]
    run = lint("--include-checks", "W", "--custom-rules", str(ROOT / ".ci" / "operations" / "templates.rules"), "--", *map(str, files))
    wrong = [run.stdout + run.stderr] if run.returncode else []
    found = {(name, case): stack for name, case, stack in stacks()}
    beside, market = found["dashboard.yaml", "whole"], found["market-dashboard.yaml", "whole"]
    for (name, case), stack in found.items():
        wrong += faults(f"{name} ({case})", stack, beside if name == "analysis.yaml" else stack)
    wrong += [*blind(beside, PLANTED), *blind(market, MARKET_PLANTED), *current()]
    wrong += [fault for name in CASES for fault in explained(name)]
    if wrong:
        sys.exit("\n".join(wrong))
    shown = sum(len(sheet["Visuals"]) for of in (beside, market) for _, definition in definitions(of) for sheet in definition["Sheets"])
    print(f"Quick Sight: {shown} visuals, {sum(len(stack.resources) for stack in found.values())} resources; {len(PLANTED + MARKET_PLANTED)} planted faults noticed")


if __name__ == "__main__":
    main()

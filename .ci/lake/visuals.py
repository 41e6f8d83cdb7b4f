"""What the dashboard of quicksight/ shows of the lake of make.py: columns of its data sets are columns of the views; each visual has
the figures of its query in athena/queries/dashboard/, and is not blank; an incremental refresh leaves no row twice.

Usage: visuals.py FOLDER_OF_MAKE

A visual is turned into SQL for DuckDB from what is deployed, dashboard.yaml; visuals.yaml only says which query it should equal.
"""

import copy
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import ddl
import duckdb
import refreshes
import sqlglot
import yaml
from results import duck_of, view_texts
from sqlglot import exp

FOLDER = ddl.ATHENA.parent / "quicksight"
QUERIES = ddl.ATHENA / "queries" / "dashboard"
# Quick Sight's types of DuckDB's.
TYPES = {"VARCHAR": "STRING", "BIGINT": "INTEGER", "INTEGER": "INTEGER", "DECIMAL": "DECIMAL", "DOUBLE": "DECIMAL", "TIMESTAMP": "DATETIME"}
# Functions of calculated fields that mean the same in SQL; one has another name there.
FUNCTIONS = (exp.Sum, exp.Count, exp.Avg, exp.Min, exp.Max)
# What a visual shows, as its query names it.
QUERY_NAMES = {
    "trade_time": "hour_bucket",
    "Trades": "trades",
    "Users": "users",
    "Trades per user": "trades_per_user",
    "Trade fees": "trade_fee",
    "Traded quantity": "quantity",
    "Mean normalised price": "avg_normalized_price",
    "Price deviation": "stddev_price",
    "Traded value": "trade_value",
}


class Template(yaml.SafeLoader):
    """Functions of CloudFormation are their arguments here."""


def argument(loader, _, node):
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else loader.construct_mapping(node)


Template.add_multi_constructor("!", argument)


class Fault(Exception):
    """What a visual does wrong."""


def data_sets(template):
    """By id the view, and names and types of the columns."""
    found = {}
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::QuickSight::DataSet":
            (table,) = resource["Properties"]["PhysicalTableMap"].values()
            table = table["RelationalTable"]
            columns = {column["Name"]: column["Type"] for column in table["InputColumns"]}
            found[resource["Properties"]["DataSetId"]] = table["Name"], columns
    return found


def check_columns(template, duck):
    """Every column of a data set is one of its view, of a type that fits."""
    views = duck.columns()[duck.database]
    for data, (view, columns) in data_sets(template).items():
        for name, kind in columns.items():
            found = views.get(view, {}).get(name)
            if found is None:
                yield f"{data}: the view {view} has no column {name}"
            elif TYPES.get(found.split("(")[0]) != kind:
                yield f"{data}: {name} is {found} in the view {view}, not {kind}"


def quoted(name):
    return exp.column(name, quoted=True).sql("duckdb")


def calculated(expression):
    """A calculated field as SQL."""
    tree = sqlglot.parse_one(expression.replace("{", '"').replace("}", '"'), read="duckdb")
    for function in list(tree.find_all(exp.Func)):
        if isinstance(function, exp.Anonymous) and function.name == "distinct_count":
            distinct = exp.Count(this=exp.Distinct(expressions=function.expressions))
            if function is tree:
                tree = distinct
            else:
                function.replace(distinct)
        elif not isinstance(function, FUNCTIONS):
            raise Fault(f"what is {function.sql('duckdb')} in SQL?")
    return tree.sql("duckdb")


def wells(chart):
    """Kind and content of each field, in order."""
    if isinstance(chart, dict):
        for key, value in chart.items():
            if key.endswith("Field"):
                yield key, value
            else:
                yield from wells(value)
    for item in chart if isinstance(chart, list) else ():
        yield from wells(item)


def statement(definition, template, visual, where=""):
    """The names of what a visual shows, and a query of it."""
    arns = {one["Identifier"]: one["DataSetArn"]["Fn::Sub"] for one in definition["DataSetIdentifierDeclarations"]}
    of = {(one["DataSetIdentifier"], one["Name"]): one["Expression"] for one in definition["CalculatedFields"]}
    names, shown, groups, data = [], [], [], None
    for kind, field in wells(visual["ChartConfiguration"]["FieldWells"]):
        data, name = field["Column"]["DataSetIdentifier"], field["Column"]["ColumnName"]
        names.append(name)
        if kind == "NumericalMeasureField":
            shown.append(calculated(of[data, name]))
            continue
        column = quoted(name)
        shown.append(f"date_trunc('{field['DateGranularity']}', {column})" if kind == "DateDimensionField" else column)
        groups.append(str(len(shown)))
    view = data_sets(template)[arns[data].rsplit("/", 1)[1]][0]
    grouped = f" GROUP BY {', '.join(groups)}" if groups else ""
    return names, f"SELECT {', '.join(shown)} FROM spice.{view}{where}{grouped}"


def period(definition, visual, now):
    """What filters leave for a visual until a reader chooses, at a time."""
    left = []
    for group in definition["FilterGroups"]:
        (scope,) = group["ScopeConfiguration"]["SelectedSheets"]["SheetVisualScopingConfigurations"]
        for one in (each["RelativeDatesFilter"] for each in group["Filters"] if "RelativeDatesFilter" in each):
            assert one["TimeGranularity"] == "DAY" and one["RelativeDateType"] == "LAST", one
            if visual["VisualId"] in scope["VisualIds"]:
                since = now - timedelta(days=one["RelativeDateValue"])
                left.append(f"{quoted(one['Column']['ColumnName'])} > TIMESTAMP '{since.isoformat(' ')}'")
    return " WHERE " + " AND ".join(left) if left else ""


def cell(value):
    if value is None or isinstance(value, str):
        return value
    return value.isoformat(" ") if isinstance(value, datetime) else f"{float(value):.10g}"


def rows(found):
    return sorted(([cell(value) for value in row] for row in found), key=str)


def check_visual(definition, template, visual, query, duck, now):
    """`query`: the columns and rows of its query."""
    names, asked = statement(definition, template, visual)
    try:
        found = rows(duck.connection.execute(asked).fetchall())
        where = period(definition, visual, now)
        seen = duck.connection.execute(statement(definition, template, visual, where)[1]).fetchall()
    except duckdb.Error as error:
        raise Fault(str(error).splitlines()[0]) from None
    at = [list(query[0]).index(QUERY_NAMES.get(name, name)) for name in names]
    wanted = rows([row[index] for index in at] for row in query[1])
    if found != wanted:
        raise Fault(f"shows {[row for row in found if row not in wanted][:2]}, its query {[row for row in wanted if row not in found][:2]}")
    if not seen or any(all(row[index] is None for row in seen) for index in range(len(names))):
        raise Fault("is blank")


def check(template, queries, duck, now):
    """`queries`: by title the columns and rows of the query with the same figures."""
    yield from check_columns(template, duck)
    definition = template["Resources"]["Dashboard"]["Properties"]["Definition"]
    for sheet in definition["Sheets"]:
        for (visual,) in (each.values() for each in sheet["Visuals"]):
            try:
                check_visual(definition, template, visual, queries[visual["Title"]["FormatText"]["PlainText"]], duck, now)
            except Fault as fault:
                yield f"{visual['VisualId']}: {fault}"


DATA = ("Resources", "Trades", "Properties", "PhysicalTableMap", "trades", "RelationalTable")
DEFINITION = ("Resources", "Dashboard", "Properties", "Definition")
FEES = (*DEFINITION, "CalculatedFields", 3, "Expression")
RISK_BY_HOUR = (*DEFINITION, "Sheets", 1, "Visuals", 0, "BarChartVisual", "ChartConfiguration", "FieldWells", "BarChartAggregatedFieldWells")
# Faults that the checks must notice: what is said of them, and what lies where then.
PLANTED = [
    ("has no column trade_fees", "trade_fees", *DATA, "InputColumns", 9, "Name"),
    ("is VARCHAR in the view live_trades, not INTEGER", "INTEGER", *DATA, "InputColumns", 1, "Type"),
    ("is TIMESTAMP in the view live_trades, not STRING", "STRING", *DATA, "InputColumns", 0, "Type"),
    ("the view live_trade has no column", "live_trade", *DATA, "Name"),
    ("trade-fee-collected: Binder Error", "sum({fee})", *FEES),
    ("trade-fee-collected: Binder Error", "sum({exchange})", *FEES),
    ("what is MEDIAN", "median({trade_fee})", *FEES),
    ("trade-fee-collected: shows", "avg({trade_fee})", *FEES),
    ("trade-fee-collected: shows", "sum({trade_fee}) / 2", *FEES),
    ("exchange-comparison: shows", "sum({trade_fee}) + 1", *FEES),
    ("user-activity-by-hour: shows", "count({user_id})", *DEFINITION, "CalculatedFields", 1, "Expression"),
    ("risk-by-hour: shows", "DAY", *RISK_BY_HOUR, "Category", 0, "DateDimensionField", "DateGranularity"),
    ("risk-by-hour: is blank", -1, *DEFINITION, "FilterGroups", 2, "Filters", 0, "RelativeDatesFilter", "RelativeDateValue"),
    ("volatility: is blank", -1, *DEFINITION, "FilterGroups", 3, "Filters", 0, "RelativeDatesFilter", "RelativeDateValue"),
]


def changed(template, value, *path):
    ill = copy.deepcopy(template)
    *path, last = path
    place = ill
    for step in path:
        place = place[step]
    assert last in place if isinstance(place, dict) else place[last], path
    place[last] = value
    return ill


def main(folder):
    template = yaml.load((FOLDER / "dashboard.yaml").read_text(), Template)
    shown = [visual for sheet in yaml.safe_load((FOLDER / "visuals.yaml").read_text())["sheets"] for visual in sheet["visuals"]]
    duck = duck_of(ddl.tables(), (folder / "lake").resolve(), view_texts())
    # A data set has its rows copied, too.
    duck.connection.execute("CREATE SCHEMA spice")
    for view in view_texts():
        duck.connection.execute(f"CREATE TABLE spice.{view} AS SELECT * FROM crypto.{view}")
    queries = {one["title"]: duck.run((QUERIES / f"{one['query']}.sql").read_text()) for one in shown}
    # Until the end of the hour in which the lake was made: it has a few trades of that hour, and older ones.
    now = datetime.fromisoformat(json.loads((folder / "made.json").read_text())["now_hour"] + ":00:00") + timedelta(hours=1)
    wrong = list(check(template, queries, duck, now))
    for said, value, *path in PLANTED:
        found = list(check(changed(template, value, *path), queries, duck, now))
        if not any(said in fault for fault in found):
            wrong.append(f"nothing says {said!r} of a planted fault: {found}")
    wrong += refreshes.check(template, duck.connection)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{len(queries)} visuals of Quick Sight have the figures of their queries, none is blank; {len(PLANTED)} planted faults noticed")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

"""Every column that a view or a query names is one of a table: follows each through the views below it, down to the tables.

Usage: bound.py
"""

import ddl
from sqlglot import exp
from sqlglot.errors import OptimizeError, SqlglotError
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify

# Athena has it in every table.
HIDDEN = {"$path": "string"}


class Unbound(Exception):
    pass


def in_order(views):
    """Views after those that they read."""
    ordered = {}
    while len(ordered) < len(views):
        ready = [
            name
            for name, select in views.items()
            if name not in ordered and all(one.name in ordered for one in select.find_all(exp.Table) if one.name in views)
        ]
        if not ready:
            raise Unbound(f"views read each other: {sorted(views.keys() - ordered.keys())}")
        ordered |= {name: views[name] for name in ready}
    return ordered


def qualified(name, select, schemas):
    """Refuses a column that no table of the statement has, or two have."""
    try:
        return qualify(select.copy(), schema=schemas, dialect="athena", validate_qualify_columns=True)
    except OptimizeError as error:
        raise Unbound(f"{name}: {str(error).splitlines()[0]}") from error


def sources(name, select, schemas, views):
    """Column of a view to the columns of tables that it comes from: (table, column)."""
    qualified(f"views/{name}", exp.expand(select, views, dialect="athena"), schemas)
    found = {}
    for column, node in lineage(None, select, schema=schemas, sources=views, dialect="athena").items():
        leaves = [one for one in node.walk() if isinstance(one.source, exp.Table)]
        found[column] = {(one.source.name, one.name.rpartition(".")[2].strip('"')) for one in leaves}
        # What a statement lists itself is no column of a table.
        listed = any(isinstance(one.source, exp.Values) for one in node.walk())
        if not found[column] and not listed and not isinstance(node.expression.unalias(), exp.Count):
            raise Unbound(f"views/{name}: {column} comes from no table")
    return found


def bound(database, tables, views, queries, others):
    """What each column of each view comes from: view to column to (table, column). `others`: what other databases have."""
    schema = {name: dict(table.columns + table.partitions) | HIDDEN for name, table in tables.items()}
    schemas, found = others | {database: schema}, {}
    for name, select in in_order(views).items():
        found[name] = sources(name, select, schemas, {f"{database}.{one}": views[one] for one in found})
        # For queries: they may name no column that the view does not have.
        schema[name] = dict.fromkeys(found[name], "string")
    for name, select in queries.items():
        qualified(name, select, schemas)
    return found, schemas


def blind(views, queries, schemas):
    """Statements in which a column was renamed, and nothing is said."""
    for name, select in (views | queries).items():
        ill = select.copy()
        column = next((one for one in ill.find_all(exp.Column) if not one.is_star), None)
        if column is None:
            continue
        column.this.set("this", "nowhere")
        try:
            qualified(name, ill, schemas)
        except Unbound:
            continue
        yield f"nothing is said when {name} reads the column nowhere"


def inserted(statements, tables):
    """An INSERT gives the columns of its table by place: they must have its names, in its order."""
    for name, tree in statements.items():
        table = tables[tree.this.name]
        wanted = [column for column, _ in table.columns + table.partitions]
        if (given := tree.expression.named_selects) != wanted:
            yield f"load/{name} gives {given} to {table.name}, which has {wanted}"


def check(database, root, others):
    """One database; gives what it and `others` have."""
    tables = ddl.tables(root)
    views = {path.stem: ddl.statement(path.read_text()).expression for path in ddl.files("views", root)}
    queries = {ddl.name(path): ddl.statement(path.read_text().replace("?", "1")) for path in ddl.files("queries", root)}
    loads = {path.stem: ddl.statement(path.read_text().replace("?", "1")) for path in ddl.files("load", root)}
    queries |= {f"load/{name}": tree.expression for name, tree in loads.items()}
    try:
        found, schemas = bound(database, tables, views, queries, others)
    except (Unbound, SqlglotError) as error:
        raise SystemExit(f"{root.name}/: {error}") from error
    used = {of for columns in found.values() for each in columns.values() for of in each}
    unknown = {(table, column) for table, column in used if table not in tables or column not in schemas[database][table]}
    wrong = [f"views read {sorted(unknown)}, which no table has"] if unknown else []
    wrong += [*blind(views, queries, schemas), *inserted(loads, tables)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    count = sum(map(len, found.values()))
    print(f"{database}: {count} columns of {len(views)} views come from {len(used)} of tables; {len(queries)} queries name no others")
    return schemas


def main():
    check("crypto_data", ddl.MARKET, check("crypto", ddl.ATHENA, {}))


if __name__ == "__main__":
    main()

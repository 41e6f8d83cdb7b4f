"""What CloudFormation makes of a template: conditions decided, functions replaced. Only what our templates use."""

import re
from pathlib import Path

from cfnlint.decode import cfn_yaml

ROOT = Path(__file__).resolve().parents[2]
# By name: each lies beside what it deploys.
FOLDERS = ("ecs", "athena", "glue", "quicksight")
TEMPLATES = {path.name: path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.yaml"))}
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-north-1",
    "AWS::AccountId": "111122223333",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "kinetide",
}
NOTHING = object()
# Where resources have the name that Ref gives.
NAMES = {
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::Kinesis::Stream": "Name",
    "AWS::KinesisFirehose::DeliveryStream": "DeliveryStreamName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::Glue::Classifier": "JsonClassifier.Name",
    "AWS::Glue::Crawler": "Name",
    "AWS::Glue::Database": "DatabaseInput.Name",
    "AWS::Glue::Job": "Name",
    "AWS::Glue::Trigger": "Name",
    "AWS::Glue::Workflow": "Name",
    "AWS::Athena::WorkGroup": "Name",
    "AWS::Events::Rule": "Name",
    "AWS::SSM::Parameter": "Name",
    "AWS::SQS::Queue": "QueueName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::ECS::Cluster": "ClusterName",
}


def load(name):
    return cfn_yaml.load(str(TEMPLATES[name]))


def text(value):
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(text, value)) if isinstance(value, list) else str(value)


class Stack:
    """A template with these parameters; the others have their defaults."""

    def __init__(self, template, **parameters):
        self.template = template
        self.parameters = {}
        for name, parameter in template["Parameters"].items():
            value = parameters.pop(name, parameter.get("Default", NOTHING))
            if value is NOTHING:
                raise SystemExit(f"the parameter {name} has neither a value nor a default")
            self.parameters[name] = value
        if parameters:
            raise SystemExit(f"unknown parameters {sorted(parameters)}")
        self.resources = {
            name: dict(resource, Properties=self.resolved(resource.get("Properties", {})))
            for name, resource in template["Resources"].items()
            if "Condition" not in resource or self.condition(resource["Condition"])
        }
        self.outputs = {
            name: self.resolved(output["Value"])
            for name, output in template["Outputs"].items()
            if "Condition" not in output or self.condition(output["Condition"])
        }

    def of(self, kind):
        return {name: one["Properties"] for name, one in self.resources.items() if one["Type"] == kind}

    def condition(self, name):
        return self.decided(self.template["Conditions"][name])

    def decided(self, rule):
        (function, argument), = rule.items()
        if function == "Fn::Equals":
            return text(self.resolved(argument[0])) == text(self.resolved(argument[1]))
        if function == "Fn::Not":
            return not self.decided(argument[0])
        if function == "Fn::And":
            return all(map(self.decided, argument))
        if function == "Condition":
            return self.condition(argument)
        raise SystemExit(f"an unknown condition {function}")

    def resolved(self, value):
        if isinstance(value, list):
            items = [self.resolved(item) for item in value]
            return [item for item in items if item is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, argument), = value.items()
            if function == "Ref":
                return self.ref(argument)
            if function == "Fn::GetAtt":
                name, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
                return self.attribute(name, attribute)
            if function == "Fn::Sub":
                return self.substituted(argument)
            if function == "Fn::If":
                return self.resolved(argument[1] if self.condition(argument[0]) else argument[2])
            if function.startswith("Fn::"):
                raise SystemExit(f"an unknown function {function}")
        found = {key: self.resolved(item) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not NOTHING}

    def ref(self, name):
        if name == "AWS::NoValue":
            return NOTHING
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        resource = self.template["Resources"][name]
        properties = resource.get("Properties", {})
        path = NAMES.get(resource["Type"], "").split(".")
        for step in path:
            properties = properties.get(step, {})
        if properties:
            return self.resolved(properties)
        return self.attribute(name, "Arn") if resource["Type"].startswith("AWS::SNS") else name.lower()

    def attribute(self, name, attribute):
        region, account = PSEUDO["AWS::Region"], PSEUDO["AWS::AccountId"]
        own = self.ref(name) if self.template["Resources"][name]["Type"] != "AWS::SNS::Topic" else name.lower()
        arn = {
            "AWS::KMS::Key": f"arn:aws:kms:{region}:{account}:key/11111111-2222-3333-4444-555555555555",
            "AWS::Kinesis::Stream": f"arn:aws:kinesis:{region}:{account}:stream/{own}",
            "AWS::DynamoDB::Table": f"arn:aws:dynamodb:{region}:{account}:table/{own}",
            "AWS::S3::Bucket": f"arn:aws:s3:::{own}",
            "AWS::IAM::Role": f"arn:aws:iam::{account}:role/{own}",
            "AWS::SNS::Topic": f"arn:aws:sns:{region}:{account}:{own}",
            "AWS::SQS::Queue": f"arn:aws:sqs:{region}:{account}:{own}",
            "AWS::Lambda::Function": f"arn:aws:lambda:{region}:{account}:function:{own}",
            "AWS::ECS::Cluster": f"arn:aws:ecs:{region}:{account}:cluster/{own}",
            "AWS::Events::Rule": f"arn:aws:events:{region}:{account}:rule/{own}",
            "AWS::Logs::LogGroup": f"arn:aws:logs:{region}:{account}:log-group:{own}:*",
        }.get(self.template["Resources"][name]["Type"])
        return arn if attribute == "Arn" and arn else {"GroupId": "sg-0123456789abcdef0"}.get(attribute, own)

    def substituted(self, argument):
        pattern, values = argument if isinstance(argument, list) else (argument, {})
        values = {name: text(self.resolved(value)) for name, value in values.items()}

        def one(match):
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in values:
                return values[name]
            return text(self.attribute(*name.split(".", 1)) if "." in name else self.ref(name))

        return re.sub(r"\$\{([^}]+)\}", one, pattern)


DATA = {
    "plain": {},
    "whole": {
        "TableName": "CryptoTransactions",
        "WithFirehose": "yes",
        "StreamMode": "PROVISIONED",
        "QuickSightRoleArn": "arn:aws:iam::111122223333:role/kinetide-dashboard",
    },
}
NETWORK = {"VpcId": "vpc-0123456789abcdef0", "SubnetIds": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]}
SERVICE = {
    "plain": NETWORK
    | {
        "StreamName": "trades", "LandingBucket": "my-lake", "Image": "registry.example/kinetide:1", "OwnMetrics": "no",
        "Retrieval": "fan-out",
    },  # fmt: skip
    "whole": NETWORK
    | {
        "StreamName": "kinetide-changes",
        "LandingBucket": "landingbucket",
        "KeyArn": "arn:aws:kms:eu-north-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        "TableName": "CryptoTransactions",
        "FirehoseName": "kinetide-rows",
        "Image": "111122223333.dkr.ecr.eu-north-1.amazonaws.com/kinetide:1",
        "RepositoryArn": "arn:aws:ecr:eu-north-1:111122223333:repository/kinetide",
        "MetricsSecurityGroup": "sg-0123456789abcdef1",
        "Spot": "yes",
        "PageEmail": "on-call@example.com",
    },
    "table": NETWORK
    | {
        "Source": "dynamodb-streams",
        "TableName": "CryptoTransactions",
        "LandingBucket": "my-lake",
        "KeyArn": "arn:aws:kms:eu-north-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        "Image": "registry.example/kinetide:1",
    },
}

TOPICS = {
    "PageTopicArn": "arn:aws:sns:eu-north-1:111122223333:pages",
    "TicketTopicArn": "arn:aws:sns:eu-north-1:111122223333:tickets",
}
PLACES = {
    "plain": {"LandingBucket": "my-landing", "LakeBucket": "my-lake"},
    "whole": {
        "LandingBucket": "landingbucket",
        "LakeBucket": "lakebucket",
        "KeyArn": "arn:aws:kms:eu-north-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        "Database": "trades",
        "Table": "newest",
    },
}
CATALOG = {"plain": PLACES["plain"] | {"HudiTable": "no"}, "whole": PLACES["whole"] | {"ProjectionYears": "2026,2027"}}
JOB = {
    "plain": PLACES["plain"] | TOPICS,
    "whole": PLACES["whole"]
    | TOPICS
    | {
        "EveryMinutes": 15,
        "OnNewData": "yes",
        "CrawlFolder": "market/coincap",
        "CrawlJsonPath": "$[*]",
        "LakeFormation": "yes",
    },
}
COMPACTION = {
    case: {name: value for name, value in places.items() if name not in ("Database", "Table")}
    | {"StreamName": "kinetide-changes", "TicketTopicArn": TOPICS["TicketTopicArn"]}
    for case, places in PLACES.items()
}
MARKET_CATALOG = {
    "plain": PLACES["plain"],
    "whole": {name: value for name, value in PLACES["whole"].items() if name not in ("Database", "Table")}
    | {"Database": "prices", "TradesDatabase": "trades", "ProjectionYears": "2026,2027"},
}
SECRET = "arn:aws:secretsmanager:eu-north-1:111122223333:secret:"
MARKET = {
    "plain": NETWORK | PLACES["plain"] | {"Image": "registry.example/kinetide:1"},
    "whole": NETWORK
    | {name: value for name, value in PLACES["whole"].items() if name not in ("Database", "Table")}
    | {
        "Image": "111122223333.dkr.ecr.eu-north-1.amazonaws.com/kinetide:1",
        "RepositoryArn": "arn:aws:ecr:eu-north-1:111122223333:repository/kinetide",
        "CoinGeckoKeySecret": f"{SECRET}coingecko-AbCdEf",
        "CoinCapKeySecret": f"{SECRET}coincap-AbCdEf",
        "CoinGeckoPlan": "pro",
        "AlarmEmail": "on-call@example.com",
    },
}
ASSETS = {
    "plain": PLACES["plain"] | {"TicketTopicArn": TOPICS["TicketTopicArn"]},
    "whole": {name: value for name, value in PLACES["whole"].items() if name not in ("Database", "Table")}
    | {"TicketTopicArn": TOPICS["TicketTopicArn"], "PartitionBy": "hour"},
}
FAULTS = {"whole": {"Cluster": "kinetide", "ServiceName": "kinetide", "StreamName": "kinetide-changes"}}


CASES = {
    "data.yaml": DATA,
    "service.yaml": SERVICE,
    "catalog.yaml": CATALOG,
    "market-catalog.yaml": MARKET_CATALOG,
    "market.yaml": MARKET,
    "job.yaml": JOB,
    "compaction.yaml": COMPACTION,
    "coincap.yaml": ASSETS,
    "faults.yaml": FAULTS,
}


def stacks():
    """Each template with the fewest and with the most resources."""
    for name, cases in CASES.items():
        for case, parameters in cases.items():
            yield name, case, Stack(load(name), **parameters)

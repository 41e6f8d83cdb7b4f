"""What the models of the AWS APIs say of the requests that CloudFormation makes of a template."""

import json
import re

import botocore.session
from botocore.validate import ParamValidator

MODELS = botocore.session.Session()


def shape_of(service, operation):
    return MODELS.get_service_model(service).operation_model(operation).input_shape


def strict(shape, value, place):
    """What the model of an API forbids: also enumerations, patterns and limits, which botocore alone passes over."""
    if shape.type_name == "structure":
        for key, item in value.items():
            if key in shape.members:
                yield from strict(shape.members[key], item, f"{place}.{key}")
    elif shape.type_name == "list":
        yield from limits(shape, len(value), place)
        for number, item in enumerate(value):
            yield from strict(shape.member, item, f"{place}[{number}]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from strict(shape.value, item, f"{place}.{key}")
    elif shape.type_name == "string":
        if getattr(shape, "enum", None) and value not in shape.enum:
            yield f"{place}: {value!r} is none of {shape.enum}"
        pattern = shape.metadata.get("pattern")
        if pattern and not matches(pattern, value):
            yield f"{place}: {value!r} does not match {pattern}"
        yield from limits(shape, len(value), place)
    elif shape.type_name in ("integer", "long", "double", "float"):
        yield from limits(shape, value, place)


def matches(pattern, value):
    """Patterns of Java that Python does not have pass."""
    try:
        return re.search(f"^(?:{pattern})$", value)
    except re.error:
        return True


def limits(shape, size, place):
    if size < shape.metadata.get("min", size) or size > shape.metadata.get("max", size):
        yield f"{place}: {size} is out of range"


def against_model(place, service, operation, value):
    shape = shape_of(service, operation)
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        yield f"{place}: {report.generate_report()}"
    else:
        yield from strict(shape, value, place)


def like_api(value):
    """Property names of CloudFormation as names of the ECS API."""
    if isinstance(value, list):
        return [like_api(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key if key == "Options" else key[0].lower() + key[1:]: like_api(item) for key, item in value.items()}


def numbers(value, *names):
    return value | {name: float(value[name]) for name in names if name in value}


def models(place, stack):
    """Each document as the request that CloudFormation makes of it."""
    for name, alarm in stack.of("AWS::CloudWatch::Alarm").items():
        alarm = json.loads(json.dumps(numbers(alarm, "Threshold")))
        yield from against_model(f"{place} {name}", "cloudwatch", "PutMetricAlarm", alarm)
    for name, alarm in stack.of("AWS::CloudWatch::CompositeAlarm").items():
        yield from against_model(f"{place} {name}", "cloudwatch", "PutCompositeAlarm", alarm)
    for name, policy in stack.of("AWS::ApplicationAutoScaling::ScalingPolicy").items():
        target = stack.of("AWS::ApplicationAutoScaling::ScalableTarget")["ScalableTarget"]
        policy = {key: item for key, item in policy.items() if key != "ScalingTargetId"}
        policy |= {key: target[key] for key in ("ServiceNamespace", "ScalableDimension", "ResourceId")}
        yield from against_model(f"{place} {name}", "application-autoscaling", "PutScalingPolicy", policy)
    for name, task in stack.of("AWS::ECS::TaskDefinition").items():
        task = like_api(task)
        for container in task["containerDefinitions"]:
            log = container["logConfiguration"]
            log["options"] = log["options"] if "options" in log else log.pop("Options")
            log["options"] = {key: str(item) for key, item in log["options"].items()}
            if "healthCheck" in container:
                container["healthCheck"]["command"] = [str(word) for word in container["healthCheck"]["command"]]
        yield from against_model(f"{place} {name}", "ecs", "RegisterTaskDefinition", task)
    for name, stream in stack.of("AWS::KinesisFirehose::DeliveryStream").items():
        yield from against_model(f"{place} {name}", "firehose", "CreateDeliveryStream", stream)
    for name, template in stack.of("AWS::FIS::ExperimentTemplate").items():
        template = {key[0].lower() + key[1:]: item for key, item in template.items()}
        template["targets"] = {key: like_api(item) for key, item in template["targets"].items()}
        template["actions"] = {
            key: like_api(item) | {"targets": item["Targets"]} for key, item in template["actions"].items()
        }
        template["stopConditions"] = like_api(template["stopConditions"])
        yield from against_model(f"{place} {name}", "fis", "CreateExperimentTemplate", template | {"clientToken": "once"})
    for name, table in stack.of("AWS::DynamoDB::Table").items():
        table = {key: item for key, item in table.items() if key not in ("KinesisStreamSpecification", "PointInTimeRecoverySpecification")}
        sse = table["SSESpecification"]
        table["SSESpecification"] = {{"SSEEnabled": "Enabled"}.get(key, key): item for key, item in sse.items()}
        if "StreamSpecification" in table:
            table["StreamSpecification"] = table["StreamSpecification"] | {"StreamEnabled": True}
        table["DeletionProtectionEnabled"] = str(table["DeletionProtectionEnabled"]).lower() == "true"
        yield from against_model(f"{place} {name}", "dynamodb", "CreateTable", table)
    yield from of_the_lake(place, stack)


def of_the_lake(place, stack):
    # The template has the members of the call.
    for kind in ("Database", "Table", "Job", "Workflow", "Trigger", "Classifier"):
        for name, resource in stack.of(f"AWS::Glue::{kind}").items():
            yield from against_model(f"{place} {name}", "glue", f"Create{kind}", resource)
    for name, crawler in stack.of("AWS::Glue::Crawler").items():
        crawler = crawler | {"Schedule": crawler["Schedule"]["ScheduleExpression"]}
        yield from against_model(f"{place} {name}", "glue", "CreateCrawler", crawler)
        json.loads(crawler["Configuration"])
    for name, group in stack.of("AWS::Athena::WorkGroup").items():
        group = {{"WorkGroupConfiguration": "Configuration"}.get(key, key): item for key, item in group.items()}
        del group["RecursiveDeleteOption"]
        yield from against_model(f"{place} {name}", "athena", "CreateWorkGroup", group)
    for name, query in stack.of("AWS::Athena::NamedQuery").items():
        yield from against_model(f"{place} {name}", "athena", "CreateNamedQuery", query)
    for name, rule in stack.of("AWS::Events::Rule").items():
        targets = rule.get("Targets", [])
        rule = {key: item for key, item in rule.items() if key != "Targets"}
        if "EventPattern" in rule:
            rule["EventPattern"] = json.dumps(rule["EventPattern"])
        yield from against_model(f"{place} {name}", "events", "PutRule", rule)
        targets = json.loads(json.dumps(targets).replace('"AwsVpcConfiguration"', '"awsvpcConfiguration"'))
        if targets:
            yield from against_model(f"{place} {name}", "events", "PutTargets", {"Rule": rule["Name"], "Targets": targets})
    yield from of_functions(place, stack)
    for name, resource in stack.of("AWS::LakeFormation::Resource").items():
        yield from against_model(f"{place} {name}", "lakeformation", "RegisterResource", resource)
    for name, grant in stack.of("AWS::LakeFormation::PrincipalPermissions").items():
        yield from against_model(f"{place} {name}", "lakeformation", "GrantPermissions", grant)


def of_functions(place, stack):
    for name, parameter in stack.of("AWS::SSM::Parameter").items():
        yield from against_model(f"{place} {name}", "ssm", "PutParameter", parameter)
    for name, queue in stack.of("AWS::SQS::Queue").items():
        attributes = {key: str(item).lower() if isinstance(item, bool) else str(item) for key, item in queue.items() if key not in ("QueueName", "Tags")}
        names = shape_of("sqs", "SetQueueAttributes").members["Attributes"].key.enum
        yield from (f"{place} {name}: a queue has no {key}" for key in sorted(attributes.keys() - set(names)))
        yield from against_model(f"{place} {name}", "sqs", "CreateQueue", {"QueueName": queue["QueueName"], "Attributes": attributes})
    for name, function in stack.of("AWS::Lambda::Function").items():
        request = {key: item for key, item in function.items() if key not in ("ReservedConcurrentExecutions", "Tags")}
        yield from against_model(f"{place} {name}", "lambda", "CreateFunction", request)
        limit = {"FunctionName": function["FunctionName"], "ReservedConcurrentExecutions": function["ReservedConcurrentExecutions"]}
        yield from against_model(f"{place} {name}", "lambda", "PutFunctionConcurrency", limit)
    for name, config in stack.of("AWS::Lambda::EventInvokeConfig").items():
        yield from against_model(f"{place} {name}", "lambda", "PutFunctionEventInvokeConfig", config)
    for name, permission in stack.of("AWS::Lambda::Permission").items():
        yield from against_model(f"{place} {name}", "lambda", "AddPermission", permission | {"StatementId": name})
    for name, topic in stack.of("AWS::SNS::Topic").items():
        yield from against_model(f"{place} {name}", "sns", "CreateTopic", {"Name": name, "Attributes": topic})

# The CloudFormation stacks, for those who keep everything in Terraform. The templates say what a parameter means; outputs of
# a stack are parameters of the next.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "name" {
  description = "Begins the names of the stacks."
  type        = string
  default     = "kinetide"
}

variable "data" {
  description = "Parameters of data.yaml that differ from their defaults."
  type        = map(string)
  default     = {}
}

variable "service" {
  description = "Parameters of service.yaml: at least Image, VpcId and SubnetIds (with commas)."
  type        = map(string)
}

resource "aws_cloudformation_stack" "data" {
  name          = "${var.name}-data"
  template_body = file("${path.module}/../data.yaml")
  parameters    = var.data
  capabilities  = ["CAPABILITY_IAM"]
}

resource "aws_cloudformation_stack" "service" {
  name          = var.name
  template_body = file("${path.module}/../service.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    {
      StreamName    = aws_cloudformation_stack.data.outputs["StreamName"]
      KeyArn        = aws_cloudformation_stack.data.outputs["KeyArn"]
      LandingBucket = aws_cloudformation_stack.data.outputs["LandingBucket"]
      Prefix        = aws_cloudformation_stack.data.outputs["Prefix"]
      TableName     = lookup(aws_cloudformation_stack.data.outputs, "TableName", "")
      FirehoseName  = lookup(aws_cloudformation_stack.data.outputs, "FirehoseName", "")
    },
    var.service,
  )
}

variable "catalog" {
  description = "Parameters of athena/catalog.yaml that differ from their defaults. null, there is none."
  type        = map(string)
  default     = null
}

variable "job" {
  description = "Parameters of glue/job.yaml that differ from their defaults. null, there is none. It needs the catalog."
  type        = map(string)
  default     = null
}

variable "compaction" {
  description = "Parameters of glue/compaction.yaml that differ from their defaults. null, there is none."
  type        = map(string)
  default     = null
}

variable "market_catalog" {
  description = "Parameters of athena/market-catalog.yaml that differ from their defaults. null, there is none."
  type        = map(string)
  default     = null
}

variable "market" {
  description = "Parameters of market.yaml: at least Image, VpcId and SubnetIds (with commas). null, there is none. It needs the catalog."
  type        = map(string)
  default     = null
}

variable "coincap" {
  description = "Parameters of glue/coincap.yaml that differ from their defaults. null, there is none. It needs market."
  type        = map(string)
  default     = null
}

variable "dashboard" {
  description = "Parameters of quicksight/dashboard.yaml: at least AuthorArn. null, there is none. It needs the catalog."
  type        = map(string)
  default     = null
}

variable "market_dashboard" {
  description = "Parameters of quicksight/market-dashboard.yaml: at least AuthorArn. null, there is none. It needs market_catalog."
  type        = map(string)
  default     = null
}

locals {
  places = {
    LandingBucket = aws_cloudformation_stack.data.outputs["LandingBucket"]
    Prefix        = aws_cloudformation_stack.data.outputs["Prefix"]
    LakeBucket    = aws_cloudformation_stack.data.outputs["LakeBucket"]
    KeyArn        = aws_cloudformation_stack.data.outputs["KeyArn"]
  }
}

resource "aws_cloudformation_stack" "catalog" {
  count         = var.catalog == null ? 0 : 1
  name          = "${var.name}-catalog"
  template_body = file("${path.module}/../../athena/catalog.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters    = merge(local.places, var.catalog)
}

resource "aws_cloudformation_stack" "job" {
  count         = var.job == null ? 0 : 1
  name          = "${var.name}-job"
  template_body = file("${path.module}/../../glue/job.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    local.places,
    {
      Database       = aws_cloudformation_stack.catalog[0].outputs["Database"]
      Table          = aws_cloudformation_stack.catalog[0].outputs["Table"]
      PageTopicArn   = aws_cloudformation_stack.service.outputs["PageTopicArn"]
      TicketTopicArn = aws_cloudformation_stack.service.outputs["TicketTopicArn"]
    },
    var.job,
  )
}

resource "aws_cloudformation_stack" "compaction" {
  count         = var.compaction == null ? 0 : 1
  name          = "${var.name}-compaction"
  template_body = file("${path.module}/../../glue/compaction.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    local.places,
    {
      StreamName     = aws_cloudformation_stack.data.outputs["StreamName"]
      TicketTopicArn = aws_cloudformation_stack.service.outputs["TicketTopicArn"]
    },
    var.compaction,
  )
}

resource "aws_cloudformation_stack" "market_catalog" {
  count         = var.market_catalog == null ? 0 : 1
  name          = "${var.name}-market-catalog"
  template_body = file("${path.module}/../../athena/market-catalog.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters    = merge(local.places, var.market_catalog)
}

resource "aws_cloudformation_stack" "market" {
  count         = var.market == null ? 0 : 1
  name          = "${var.name}-market"
  template_body = file("${path.module}/../market.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    local.places,
    {
      Database      = aws_cloudformation_stack.market_catalog[0].outputs["Database"]
      WorkGroup     = aws_cloudformation_stack.market_catalog[0].outputs["WorkGroup"]
      LoadParameter = aws_cloudformation_stack.market_catalog[0].outputs["LoadParameter"]
    },
    var.market,
  )
}

resource "aws_cloudformation_stack" "coincap" {
  count         = var.coincap == null ? 0 : 1
  name          = "${var.name}-coincap"
  template_body = file("${path.module}/../../glue/coincap.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters    = merge(local.places, { TicketTopicArn = aws_cloudformation_stack.market[0].outputs["TopicArn"] }, var.coincap)
}

resource "aws_cloudformation_stack" "dashboard" {
  count         = var.dashboard == null ? 0 : 1
  name          = "${var.name}-dashboard"
  template_body = file("${path.module}/../../quicksight/dashboard.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    local.places,
    {
      Database  = aws_cloudformation_stack.catalog[0].outputs["Database"]
      WorkGroup = aws_cloudformation_stack.catalog[0].outputs["WorkGroup"]
    },
    var.dashboard,
  )
}

resource "aws_cloudformation_stack" "market_dashboard" {
  count         = var.market_dashboard == null ? 0 : 1
  name          = "${var.name}-market-dashboard"
  template_body = file("${path.module}/../../quicksight/market-dashboard.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = merge(
    { for name in ["LakeBucket", "KeyArn"] : name => local.places[name] },
    {
      Database  = aws_cloudformation_stack.market_catalog[0].outputs["Database"]
      WorkGroup = aws_cloudformation_stack.market_catalog[0].outputs["WorkGroup"]
    },
    var.market_dashboard,
  )
}

output "data" {
  description = "Outputs of data.yaml."
  value       = aws_cloudformation_stack.data.outputs
}

output "service" {
  description = "Outputs of service.yaml."
  value       = aws_cloudformation_stack.service.outputs
}

variable "project" {
  description = "Google project of the clusters and buckets"
  type        = string
}

variable "region" {
  description = "Region of buckets and images: that of the clusters, or every payload image crosses the ocean"
  type        = string
  default     = "us-central1"
}

variable "bucket_prefix" {
  description = "First part of the buckets' names; CRIC's storage endpoint and the monitor know drp-us-central1-logging"
  type        = string
  default     = "drp-us-central1"
}

variable "log_days" {
  description = "Days after which a job's logs are removed"
  type        = number
  default     = 730
}

variable "namespace" {
  description = "Kubernetes namespace of the workers (container/kube/cluster)"
  type        = string
  default     = "panda"
}

variable "service_account" {
  description = "Kubernetes service account of the workers (container/kube/cluster)"
  type        = string
  default     = "pilot"
}

variable "workload_identity" {
  description = "Whether the workers' service account may act as gcs-access; otherwise a key file is its identity"
  type        = bool
  default     = false
}

variable "cloud_logging" {
  description = "Whether gcs-access may write to Cloud Logging"
  type        = bool
  default     = true
}

variable "node_service_accounts" {
  description = "E-mail addresses of the node pools' service accounts, which fetch the pilot's image"
  type        = set(string)
  default     = []
}

output "log_url_base" {
  description = "Where the logs of a queue's jobs are, followed by /<queue>/PandaJob_<PandaID>/"
  value       = "https://storage.googleapis.com/${google_storage_bucket.logging.name}/logs"
}

output "transform_base" {
  description = "Where transformations and images are fetched from"
  value       = "https://storage.googleapis.com/${google_storage_bucket.containers.name}"
}

output "image" {
  description = "The pilot's image without its digest: for REGISTRY/pilot in the overlays"
  value       = "${google_artifact_registry_repository.pilot.registry_uri}/pilot"
}

output "gcs_access" {
  description = "The account whose key the secret gcs-access holds, or that Workload Identity gives"
  value       = google_service_account.gcs_access.email
}

output "harvester" {
  description = "The user of container/kube/cluster/harvester-role.yaml"
  value       = google_service_account.harvester.email
}

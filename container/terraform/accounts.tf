# The pilot's identity towards Google. Its key is made by hand (docs/operate.md): made here it would lie in the state.
resource "google_service_account" "gcs_access" {
  project      = var.project
  account_id   = "gcs-access"
  display_name = "PanDA pilots: logs of jobs"
}

# What a log upload takes: make an object, write over it, look whether it is there. No listing, no bucket, no policy.
resource "google_project_iam_custom_role" "log_writer" {
  project     = var.project
  role_id     = "pilotLogWriter"
  title       = "Pilot log writer"
  description = "Make, overwrite and read objects whose name is known"
  permissions = [
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
  ]
}

resource "google_storage_bucket_iam_member" "gcs_access_logging" {
  bucket = google_storage_bucket.logging.name
  role   = google_project_iam_custom_role.log_writer.id
  member = "serviceAccount:${google_service_account.gcs_access.email}"
}

resource "google_project_iam_member" "gcs_access_cloud_logging" {
  count   = var.cloud_logging ? 1 : 0
  project = var.project
  role    = "roles/logging.logWriter"
  member  = "serviceAccount:${google_service_account.gcs_access.email}"
}

# Workload Identity: pods of the workers' service account are gcs-access, without a key.
resource "google_service_account_iam_member" "workload_identity" {
  count              = var.workload_identity ? 1 : 0
  service_account_id = google_service_account.gcs_access.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/${var.service_account}]"
}

# Harvester: may find the cluster; what it may do there says container/kube/cluster/harvester-role.yaml.
resource "google_service_account" "harvester" {
  project      = var.project
  account_id   = "harvester"
  display_name = "PanDA Harvester: submits workers"
}

resource "google_project_iam_member" "harvester_cluster" {
  project = var.project
  role    = "roles/container.clusterViewer"
  member  = "serviceAccount:${google_service_account.harvester.email}"
}

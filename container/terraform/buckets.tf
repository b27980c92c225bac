# Logs: read by everybody at https://storage.googleapis.com/<bucket>/logs/<queue>/PandaJob_<PandaID>/<file>, written by gcs-access.
resource "google_storage_bucket" "logging" {
  name                        = "${var.bucket_prefix}-logging"
  project                     = var.project
  location                    = upper(var.region)
  storage_class               = "REGIONAL"
  uniform_bucket_level_access = true
  public_access_prevention    = "inherited"

  # What a payload of one job wrote over the log of another can be brought back. A running job's log is written anew as
  # it grows, so that no more than one old version is kept.
  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      matches_prefix     = ["logs/"]
      with_state         = "ARCHIVED"
      num_newer_versions = 2
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      matches_prefix             = ["logs/"]
      with_state                 = "ARCHIVED"
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      matches_prefix = ["logs/"]
      age            = var.log_days
    }
    action {
      type = "Delete"
    }
  }

  # Otherwise each version that goes would be kept, and paid for, for another week.
  soft_delete_policy {
    retention_duration_seconds = 0
  }
}

# Payload images and transformations (bash-c): fetched without credentials, written by those who build them.
resource "google_storage_bucket" "containers" {
  name                        = "${var.bucket_prefix}-containers"
  project                     = var.project
  location                    = upper(var.region)
  storage_class               = "REGIONAL"
  uniform_bucket_level_access = true
  public_access_prevention    = "inherited"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      with_state                 = "ARCHIVED"
      days_since_noncurrent_time = 90
    }
    action {
      type = "Delete"
    }
  }
}

# legacyObjectReader: everybody may read an object whose name is known, and list nothing.
resource "google_storage_bucket_iam_member" "logging_public" {
  bucket = google_storage_bucket.logging.name
  role   = "roles/storage.legacyObjectReader"
  member = "allUsers"
}

resource "google_storage_bucket_iam_member" "containers_public" {
  bucket = google_storage_bucket.containers.name
  role   = "roles/storage.legacyObjectReader"
  member = "allUsers"
}

# The pilot's own image; the overlays of container/kube name it.
resource "google_artifact_registry_repository" "pilot" {
  project       = var.project
  location      = var.region
  repository_id = "pilot"
  format        = "DOCKER"
  description   = "The pilot's images, named by digest in the worker templates"

  docker_config {
    immutable_tags = true
  }
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  for_each   = var.node_service_accounts
  project    = var.project
  location   = google_artifact_registry_repository.pilot.location
  repository = google_artifact_registry_repository.pilot.name
  role       = "roles/artifactregistry.reader"
  member     = "serviceAccount:${each.value}"
}

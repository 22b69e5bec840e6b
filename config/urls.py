"""Every address of the site: both apps, sign-in, Django's admin."""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path, re_path

from annotator.api.problems import nothing_here
from annotator.views.signing_in import sign_in

urlpatterns = [
    path("", include("annotator.urls")),
    path("", include("rlhf.urls")),
    path("api/v1/", include("annotator.api.urls")),
    path("api/v1/", include("rlhf.api.urls")),
    re_path("^api/", nothing_here),
    path("sign-in/", sign_in, name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path("django-admin/", admin.site.urls),
]

handler400 = "annotator.api.problems.bad_request"
handler500 = "annotator.api.problems.server_error"

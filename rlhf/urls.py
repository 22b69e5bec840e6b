from django.urls import URLPattern

app_name = "rlhf"
urlpatterns: list[URLPattern] = []

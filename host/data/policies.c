/* The sub-policies of AutoAugment as the paper lists them (its appendix; magnitude 0 .. 9). */
#include "data/policy.h"

#include "base/err.h"

#define NONE POLICY_NO_MAGNITUDE

static const PolicyStep imagenet[POLICY_SUBPOLICIES][2] = {
    {{PIL_POSTERIZE, 0.4, 8}, {PIL_ROTATE, 0.6, 9}},
    {{PIL_SOLARIZE, 0.6, 5}, {PIL_AUTO_CONTRAST, 0.6, NONE}},
    {{PIL_EQUALIZE, 0.8, NONE}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_POSTERIZE, 0.6, 7}, {PIL_POSTERIZE, 0.6, 6}},
    {{PIL_EQUALIZE, 0.4, NONE}, {PIL_SOLARIZE, 0.2, 4}},
    {{PIL_EQUALIZE, 0.4, NONE}, {PIL_ROTATE, 0.8, 8}},
    {{PIL_SOLARIZE, 0.6, 3}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_POSTERIZE, 0.8, 5}, {PIL_EQUALIZE, 1.0, NONE}},
    {{PIL_ROTATE, 0.2, 3}, {PIL_SOLARIZE, 0.6, 8}},
    {{PIL_EQUALIZE, 0.6, NONE}, {PIL_POSTERIZE, 0.4, 6}},
    {{PIL_ROTATE, 0.8, 8}, {PIL_COLOR, 0.4, 0}},
    {{PIL_ROTATE, 0.4, 9}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_EQUALIZE, 0.0, NONE}, {PIL_EQUALIZE, 0.8, NONE}},
    {{PIL_INVERT, 0.6, NONE}, {PIL_EQUALIZE, 1.0, NONE}},
    {{PIL_COLOR, 0.6, 4}, {PIL_CONTRAST, 1.0, 8}},
    {{PIL_ROTATE, 0.8, 8}, {PIL_COLOR, 1.0, 2}},
    {{PIL_COLOR, 0.8, 8}, {PIL_SOLARIZE, 0.8, 7}},
    {{PIL_SHARPNESS, 0.4, 7}, {PIL_INVERT, 0.6, NONE}},
    {{PIL_SHEAR_X, 0.6, 5}, {PIL_EQUALIZE, 1.0, NONE}},
    {{PIL_COLOR, 0.4, 0}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_EQUALIZE, 0.4, NONE}, {PIL_SOLARIZE, 0.2, 4}},
    {{PIL_SOLARIZE, 0.6, 5}, {PIL_AUTO_CONTRAST, 0.6, NONE}},
    {{PIL_INVERT, 0.6, NONE}, {PIL_EQUALIZE, 1.0, NONE}},
    {{PIL_COLOR, 0.6, 4}, {PIL_CONTRAST, 1.0, 8}},
    {{PIL_EQUALIZE, 0.8, NONE}, {PIL_EQUALIZE, 0.6, NONE}},
};

static const PolicyStep cifar10[POLICY_SUBPOLICIES][2] = {
    {{PIL_INVERT, 0.1, NONE}, {PIL_CONTRAST, 0.2, 6}},
    {{PIL_ROTATE, 0.7, 2}, {PIL_TRANSLATE_X, 0.3, 9}},
    {{PIL_SHARPNESS, 0.8, 1}, {PIL_SHARPNESS, 0.9, 3}},
    {{PIL_SHEAR_Y, 0.5, 8}, {PIL_TRANSLATE_Y, 0.7, 9}},
    {{PIL_AUTO_CONTRAST, 0.5, NONE}, {PIL_EQUALIZE, 0.9, NONE}},
    {{PIL_SHEAR_Y, 0.2, 7}, {PIL_POSTERIZE, 0.3, 7}},
    {{PIL_COLOR, 0.4, 3}, {PIL_BRIGHTNESS, 0.6, 7}},
    {{PIL_SHARPNESS, 0.3, 9}, {PIL_BRIGHTNESS, 0.7, 9}},
    {{PIL_EQUALIZE, 0.6, NONE}, {PIL_EQUALIZE, 0.5, NONE}},
    {{PIL_CONTRAST, 0.6, 7}, {PIL_SHARPNESS, 0.6, 5}},
    {{PIL_COLOR, 0.7, 7}, {PIL_TRANSLATE_X, 0.5, 8}},
    {{PIL_EQUALIZE, 0.3, NONE}, {PIL_AUTO_CONTRAST, 0.4, NONE}},
    {{PIL_TRANSLATE_Y, 0.4, 3}, {PIL_SHARPNESS, 0.2, 6}},
    {{PIL_BRIGHTNESS, 0.9, 6}, {PIL_COLOR, 0.2, 8}},
    {{PIL_SOLARIZE, 0.5, 2}, {PIL_INVERT, 0.0, NONE}},
    {{PIL_EQUALIZE, 0.2, NONE}, {PIL_AUTO_CONTRAST, 0.6, NONE}},
    {{PIL_EQUALIZE, 0.2, NONE}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_COLOR, 0.9, 9}, {PIL_EQUALIZE, 0.6, NONE}},
    {{PIL_AUTO_CONTRAST, 0.8, NONE}, {PIL_SOLARIZE, 0.2, 8}},
    {{PIL_BRIGHTNESS, 0.1, 3}, {PIL_COLOR, 0.7, 0}},
    {{PIL_SOLARIZE, 0.4, 5}, {PIL_AUTO_CONTRAST, 0.9, NONE}},
    {{PIL_TRANSLATE_Y, 0.9, 9}, {PIL_TRANSLATE_Y, 0.7, 9}},
    {{PIL_AUTO_CONTRAST, 0.9, NONE}, {PIL_SOLARIZE, 0.8, 3}},
    {{PIL_EQUALIZE, 0.8, NONE}, {PIL_INVERT, 0.1, NONE}},
    {{PIL_TRANSLATE_Y, 0.7, 9}, {PIL_AUTO_CONTRAST, 0.9, NONE}},
};

const PolicyStep (*policy_subpolicies(PolicyKind kind))[2]
{
    CHECK(kind == POLICY_AUTOAUGMENT_IMAGENET || kind == POLICY_AUTOAUGMENT_CIFAR10,
          "policy %d has no sub-policies", (int)kind);
    return kind == POLICY_AUTOAUGMENT_IMAGENET ? imagenet : cifar10;
}
